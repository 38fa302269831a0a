// Maps $mul to carry chains.  Each bit of each row of partial products is one cell, whose LUT adds and chooses whether to add.
(* techmap_celltype = "$mul" *)
module _soft_mul (A, B, Y);
  parameter A_SIGNED = 0; parameter B_SIGNED = 0;
  parameter A_WIDTH = 1; parameter B_WIDTH = 1; parameter Y_WIDTH = 1;
  (* force_downto *) input [A_WIDTH-1:0] A;
  (* force_downto *) input [B_WIDTH-1:0] B;
  (* force_downto *) output [Y_WIDTH-1:0] Y;
  // A signed operand whose top bit is constant zero is treated as unsigned.
  parameter _TECHMAP_CONSTMSK_A_ = 0; parameter _TECHMAP_CONSTVAL_A_ = 0;
  parameter _TECHMAP_CONSTMSK_B_ = 0; parameter _TECHMAP_CONSTVAL_B_ = 0;
  localparam A_ZERO = A_SIGNED && _TECHMAP_CONSTMSK_A_[A_WIDTH-1] === 1'b1 && _TECHMAP_CONSTVAL_A_[A_WIDTH-1] === 1'b0;
  localparam B_ZERO = B_SIGNED && _TECHMAP_CONSTMSK_B_[B_WIDTH-1] === 1'b1 && _TECHMAP_CONSTVAL_B_[B_WIDTH-1] === 1'b0;
  localparam AW = A_WIDTH - A_ZERO, AS = A_SIGNED && !A_ZERO;
  localparam BW = B_WIDTH - B_ZERO, BS = B_SIGNED && !B_ZERO;
  localparam SWAP = BW > AW;
  localparam XW = SWAP ? BW : AW, XS = SWAP ? BS : AS;
  localparam ZW = SWAP ? AW : BW, ZS = SWAP ? AS : BS;
  wire [XW-1:0] x = SWAP ? B[XW-1:0] : A[XW-1:0];
  wire [ZW-1:0] z = SWAP ? A[ZW-1:0] : B[ZW-1:0];
  wire [XW:0] term = {XS && x[XW-1], x};
  // The sum of the rows so far, without its low bits that no further row changes, has the width of x and one sign bit.
  wire [(XW+1)*ZW-1:0] sum;
  wire [XW+ZW-1:0] product;
  genvar k;
  generate
    for (k = 0; k < ZW; k = k + 1) begin : row
      wire [XW:0] before;
      if (k == 0) assign before = 0;
      else assign before = {XS && sum[k*(XW+1)-1], sum[k*(XW+1)-1 -: XW]};
      if (ZS && k == ZW - 1) assign sum[k*(XW+1) +: XW+1] = z[k] ? before - term : before;
      else assign sum[k*(XW+1) +: XW+1] = z[k] ? before + term : before;
      if (k < ZW - 1) assign product[k] = sum[k*(XW+1)];
    end
    assign product[XW+ZW-1 -: XW+1] = sum[(XW+1)*ZW-1 -: XW+1];
    if (XS || ZS) assign Y = $signed(product);
    else assign Y = product;
  endgenerate
endmodule
