// The multipliers and the memory of the shared engine as cells of the iCE40 UltraPlus.  fpga/ice40/parts.py puts these modules in the
// place of those of chip.v that have the same names (hdl/engine/mac16.py, hdl/engine/spram.py).

module multiply_bytes (
  input clk,
  input rst,
  input [15:0] a,
  input [15:0] b,
  output [31:0] o
);
  SB_MAC16 #(
    .MODE_8x8(1'b1), .A_SIGNED(1'b1), .B_SIGNED(1'b1), .TOP_8x8_MULT_REG(1'b1), .BOT_8x8_MULT_REG(1'b1),
    .TOPOUTPUT_SELECT(2'b10), .BOTOUTPUT_SELECT(2'b10)
  ) mac (
    .CLK(clk), .CE(1'b1), .A(a), .B(b), .C(16'b0), .D(16'b0), .AHOLD(1'b0), .BHOLD(1'b0), .CHOLD(1'b0), .DHOLD(1'b0),
    .IRSTTOP(1'b0), .IRSTBOT(1'b0), .ORSTTOP(1'b0), .ORSTBOT(1'b0), .OLOADTOP(1'b0), .OLOADBOT(1'b0), .ADDSUBTOP(1'b0),
    .ADDSUBBOT(1'b0), .OHOLDTOP(1'b0), .OHOLDBOT(1'b0), .CI(1'b0), .ACCUMCI(1'b0), .SIGNEXTIN(1'b0), .O(o)
  );
endmodule

module multiply_signed (
  input clk,
  input rst,
  input [15:0] a,
  input [15:0] b,
  output [31:0] o
);
  SB_MAC16 #(
    .A_SIGNED(1'b1), .B_SIGNED(1'b1), .PIPELINE_16x16_MULT_REG2(1'b1), .TOPOUTPUT_SELECT(2'b11), .BOTOUTPUT_SELECT(2'b11)
  ) mac (
    .CLK(clk), .CE(1'b1), .A(a), .B(b), .C(16'b0), .D(16'b0), .AHOLD(1'b0), .BHOLD(1'b0), .CHOLD(1'b0), .DHOLD(1'b0),
    .IRSTTOP(1'b0), .IRSTBOT(1'b0), .ORSTTOP(1'b0), .ORSTBOT(1'b0), .OLOADTOP(1'b0), .OLOADBOT(1'b0), .ADDSUBTOP(1'b0),
    .ADDSUBBOT(1'b0), .OHOLDTOP(1'b0), .OHOLDBOT(1'b0), .CI(1'b0), .ACCUMCI(1'b0), .SIGNEXTIN(1'b0), .O(o)
  );
endmodule

module multiply_unsigned (
  input clk,
  input rst,
  input [15:0] a,
  input [15:0] b,
  output [31:0] o
);
  SB_MAC16 #(
    .A_SIGNED(1'b0), .B_SIGNED(1'b1), .PIPELINE_16x16_MULT_REG2(1'b1), .TOPOUTPUT_SELECT(2'b11), .BOTOUTPUT_SELECT(2'b11)
  ) mac (
    .CLK(clk), .CE(1'b1), .A(a), .B(b), .C(16'b0), .D(16'b0), .AHOLD(1'b0), .BHOLD(1'b0), .CHOLD(1'b0), .DHOLD(1'b0),
    .IRSTTOP(1'b0), .IRSTBOT(1'b0), .ORSTTOP(1'b0), .ORSTBOT(1'b0), .OLOADTOP(1'b0), .OLOADBOT(1'b0), .ADDSUBTOP(1'b0),
    .ADDSUBBOT(1'b0), .OHOLDTOP(1'b0), .OHOLDBOT(1'b0), .CI(1'b0), .ACCUMCI(1'b0), .SIGNEXTIN(1'b0), .O(o)
  );
endmodule

module spram (
  input clk,
  input rst,
  input [13:0] addr,
  input [7:0] write,
  input [63:0] data,
  output [63:0] o
);
  genvar k;
  generate
    for (k = 0; k < 4; k = k + 1) begin : quarter
      SB_SPRAM256KA ram (
        .CLOCK(clk), .ADDRESS(addr), .DATAIN(data[16 * k +: 16]), .DATAOUT(o[16 * k +: 16]),
        .WREN(write[2 * k] | write[2 * k + 1]),
        .MASKWREN({write[2 * k + 1], write[2 * k + 1], write[2 * k], write[2 * k]}),
        .CHIPSELECT(1'b1), .STANDBY(1'b0), .SLEEP(1'b0), .POWEROFF(1'b1)
      );
    end
  endgenerate
endmodule
