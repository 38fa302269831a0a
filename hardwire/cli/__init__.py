"""The command line: its commands in groups, their options, and their output."""
