"""Boards with an FPGA: their devices, tool flows and estimates, the serial link, and checks of finished bitstreams."""
