// Models of cells of a placed iCE40 netlist.  Yosys' ice40/cells_sim.v has none of them, or one that Verilator refuses.

module ICESTORM_PLL (
  input REFERENCECLK,
  input RESETB,
  input BYPASS,
  output PLLOUT_A_GLOBAL,
  output LOCK
);
  // The simulation counts cycles of the output of the PLL.
  reg [3:0] cycles = 0;
  assign PLLOUT_A_GLOBAL = REFERENCECLK;
  assign LOCK = &cycles;
  always @(posedge REFERENCECLK) cycles <= !RESETB || BYPASS ? 4'd0 : cycles + !LOCK;
endmodule

module INPUT_PIN (
  input PACKAGE_PIN,
  output D_IN_0
);
  assign D_IN_0 = PACKAGE_PIN;
endmodule

module OUTPUT_PIN (
  output PACKAGE_PIN,
  input D_OUT_0
);
  assign PACKAGE_PIN = D_OUT_0;
endmodule
