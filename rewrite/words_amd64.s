#include "textflag.h"

// func pairAVX2(b []byte) (at int, found bool)
//
// 64 bytes a turn, while 67 are left: Y3 and Y4 are the bytes, Y5 and Y6 those three further on. A
// pair is an r with a y, or a c with a "=".
TEXT ·pairAVX2(SB), NOSPLIT, $0-33
	MOVQ b_base+0(FP), SI
	MOVQ b_len+8(FP), CX
	SUBQ $67, CX
	XORQ AX, AX
	MOVB $0, found+32(FP)

	MOVL         $0x72727272, DX // r
	VMOVD        DX, X0
	VPBROADCASTD X0, Y0
	MOVL         $0x79797979, DX // y
	VMOVD        DX, X1
	VPBROADCASTD X1, Y1
	MOVL         $0x20202020, DX // makes letters lower case, and leaves "=" as it is
	VMOVD        DX, X2
	VPBROADCASTD X2, Y2
	MOVL         $0x63636363, DX // c
	VMOVD        DX, X7
	VPBROADCASTD X7, Y7
	MOVL         $0x3d3d3d3d, DX // =
	VMOVD        DX, X8
	VPBROADCASTD X8, Y8

turn:
	CMPQ      AX, CX
	JGT       done
	VPOR      (SI)(AX*1), Y2, Y3
	VPOR      32(SI)(AX*1), Y2, Y4
	VPOR      3(SI)(AX*1), Y2, Y5
	VPOR      35(SI)(AX*1), Y2, Y6
	VPCMPEQB  Y3, Y7, Y9
	VPCMPEQB  Y4, Y7, Y10
	VPCMPEQB  Y5, Y8, Y11
	VPCMPEQB  Y6, Y8, Y12
	VPCMPEQB  Y3, Y0, Y3
	VPCMPEQB  Y4, Y0, Y4
	VPCMPEQB  Y5, Y1, Y5
	VPCMPEQB  Y6, Y1, Y6
	VPAND     Y9, Y11, Y9
	VPAND     Y10, Y12, Y10
	VPAND     Y3, Y5, Y3
	VPAND     Y4, Y6, Y4
	VPOR      Y3, Y9, Y3
	VPOR      Y4, Y10, Y4
	VPOR      Y3, Y4, Y5
	VPMOVMSKB Y5, DX
	TESTL     DX, DX
	JNZ       here
	ADDQ      $64, AX
	JMP       turn

here:
	VPMOVMSKB Y3, DX
	VPMOVMSKB Y4, BX
	SHLQ      $32, BX
	ORQ       BX, DX
	BSFQ      DX, DX
	ADDQ      DX, AX
	MOVB      $1, found+32(FP)

done:
	VZEROUPPER
	MOVQ AX, at+24(FP)
	RET
