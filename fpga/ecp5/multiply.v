// Maps $mul to carry chains.  A half of a CCU2C adds two partial products at once, because its LUT has four inputs.
(* techmap_celltype = "$mul" *)
module _soft_mul (A, B, Y);
  parameter A_SIGNED = 0; parameter B_SIGNED = 0;
  parameter A_WIDTH = 1; parameter B_WIDTH = 1; parameter Y_WIDTH = 1;
  (* force_downto *) input [A_WIDTH-1:0] A;
  (* force_downto *) input [B_WIDTH-1:0] B;
  (* force_downto *) output [Y_WIDTH-1:0] Y;
  // A signed operand whose top bit is constant zero is treated as unsigned.
  parameter _TECHMAP_CONSTMSK_A_ = 0;
  parameter _TECHMAP_CONSTVAL_A_ = 0;
  parameter _TECHMAP_CONSTMSK_B_ = 0;
  parameter _TECHMAP_CONSTVAL_B_ = 0;
  localparam A_POSITIVE = A_SIGNED && _TECHMAP_CONSTMSK_A_[A_WIDTH-1] === 1'b1 && _TECHMAP_CONSTVAL_A_[A_WIDTH-1] === 1'b0;
  localparam B_POSITIVE = B_SIGNED && _TECHMAP_CONSTMSK_B_[B_WIDTH-1] === 1'b1 && _TECHMAP_CONSTVAL_B_[B_WIDTH-1] === 1'b0;
  localparam AW = A_POSITIVE ? A_WIDTH - 1 : A_WIDTH;
  localparam BW = B_POSITIVE ? B_WIDTH - 1 : B_WIDTH;
  localparam AS = A_SIGNED && !A_POSITIVE;
  localparam BS = B_SIGNED && !B_POSITIVE;
  localparam swap = BW > AW;
  localparam XW = swap ? BW : AW;
  localparam ZW = swap ? AW : BW;
  localparam XS = swap ? BS : AS;
  localparam ZS = swap ? AS : BS;
  wire [XW-1:0] x; wire [ZW-1:0] z;
  generate if (swap) begin assign x = B; assign z = A; end else begin assign x = A; assign z = B; end endgenerate
  // Row k is x * z[k] << k.  The top row is negative if z is signed.
  localparam N = (ZW + 1) / 2;          // pairs
  localparam W = XW + 2;                // bits of the sum of a pair, which is signed if x is signed or a row is negative
  localparam SW = XW + ZW + 1;
  wire xs;
  assign xs = XS ? x[XW-1] : 1'b0;
  wire [W-1:0] low, high;
  assign low = {{(W-XW){xs}}, x};
  assign high = {{(W-XW-1){xs}}, x, 1'b0};
  wire [2*N-1:0] zz;
  assign zz = {1'b0, z};
  genvar i, j;
  generate
    for (i = 0; i < N; i = i + 1) begin: pair
      localparam NEG = ZS && (2*i+2 >= ZW);
      localparam NEG_LOW = NEG && (ZW % 2 == 1);   // the top row is the lower one of its pair, and the only one
      localparam integer FIRST = NEG_LOW ? 0 : 1;  // bit 0 has one row only: no chain is needed, and its carry is NEG
      wire [W-1:0] s;
      wire [W:0] c;
      wire sign;
      localparam [15:0] INIT = NEG ? 16'h8777 : 16'h7888;  // (a & za, or its complement) + (b & zb)
      wire [W-1:0] a; wire [W-1:0] b; wire za, zb;
      assign a = NEG_LOW ? low : high;
      assign b = NEG_LOW ? high : low;
      assign za = NEG_LOW ? zz[2*i] : zz[2*i+1];
      assign zb = NEG_LOW ? zz[2*i+1] : zz[2*i];
      assign sign = XS || NEG ? s[W-1] : 1'b0;
      assign c[FIRST] = NEG;
      if (FIRST) assign s[0] = b[0] & zb;
      for (j = FIRST; j + 1 < W; j = j + 2) begin: bits
        CCU2C #(.INIT0(INIT), .INIT1(INIT), .INJECT1_0("NO"), .INJECT1_1("NO")) add (
          .CIN(c[j]), .A0(a[j]), .B0(za), .C0(b[j]), .D0(zb), .A1(a[j+1]), .B1(za), .C1(b[j+1]), .D1(zb),
          .S0(s[j]), .S1(s[j+1]), .COUT(c[j+2]));
      end
      if ((W - FIRST) % 2 == 1) begin: top
        CCU2C #(.INIT0(INIT), .INIT1(INIT), .INJECT1_0("NO"), .INJECT1_1("NO")) add (
          .CIN(c[W-1]), .A0(a[W-1]), .B0(za), .C0(b[W-1]), .D0(zb), .A1(1'b0), .B1(1'b0), .C1(1'b0), .D1(1'b0), .S0(s[W-1]));
      end
    end
    // A tree adds neighbours, whose distance doubles from level to level.  Each sum has its own sign bit.
    wire [8*SW-1:0] p;
    wire [4*SW-1:0] q;
    wire [2*SW-1:0] r;
    wire signed [SW-1:0] product;
    for (i = 0; i < 8; i = i + 1)
      if (i < N) assign p[i*SW+:SW] = $signed({pair[i].sign, pair[i].s});
    for (i = 0; i < 4; i = i + 1)
      if (2*i + 1 < N) assign q[i*SW+:SW] = {$signed(p[2*i*SW+2+:SW-2]) + $signed(p[(2*i+1)*SW+:SW-2]), p[2*i*SW+:2]};
      else if (2*i < N) assign q[i*SW+:SW] = p[2*i*SW+:SW];
    for (i = 0; i < 2; i = i + 1)
      if (4*i + 2 < N) assign r[i*SW+:SW] = {$signed(q[2*i*SW+4+:SW-4]) + $signed(q[(2*i+1)*SW+:SW-4]), q[2*i*SW+:4]};
      else if (4*i < N) assign r[i*SW+:SW] = q[2*i*SW+:SW];
    if (N > 4) assign product = {$signed(r[8+:SW-8]) + $signed(r[SW+:SW-8]), r[0+:8]};
    else assign product = r[0+:SW];
    if (N > 8) wire _TECHMAP_FAIL_ = 1;
    assign Y = product;
  endgenerate
endmodule
