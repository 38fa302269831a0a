"""Verilog models of the ECP5 cells that carry chains are made of."""

CELLS = """
module CCU2C (input CIN, A0, B0, C0, D0, A1, B1, C1, D1, output S0, S1, COUT);
  parameter [15:0] INIT0 = 0, INIT1 = 0;
  parameter INJECT1_0 = "YES", INJECT1_1 = "YES";
  wire p0 = INIT0[{D0, C0, B0, A0}], g0 = INIT0[{B0, A0}], p1 = INIT1[{D1, C1, B1, A1}], g1 = INIT1[{B1, A1}];
  wire i0 = CIN & (INJECT1_0 == "NO"), c0 = p0 ? i0 : g0 & (INJECT1_0 == "NO"), i1 = c0 & (INJECT1_1 == "NO");
  assign S0 = p0 ^ i0, S1 = p1 ^ i1, COUT = p1 ? i1 : g1 & (INJECT1_1 == "NO");
endmodule
module LUT4 (input A, B, C, D, output Z);
  parameter [15:0] INIT = 0;
  assign Z = INIT[{D, C, B, A}];
endmodule
"""
