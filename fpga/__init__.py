"""The FPGA boards that carry a chip: devices, estimates, tool flows, the serial link, and the checks of bitstreams."""
