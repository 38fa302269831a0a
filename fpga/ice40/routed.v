// Cells of a placed and routed iCE40 netlist that Yosys' ice40/cells_sim.v has no model of, or one that Verilator does not take.

module ICESTORM_PLL (
  input REFERENCECLK,
  input RESETB,
  input BYPASS,
  output PLLOUT_A_GLOBAL,
  output LOCK
);
  // A cycle of the simulation is one of the PLL's output.
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
