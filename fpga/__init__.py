"""Boards, builds and the host link."""
