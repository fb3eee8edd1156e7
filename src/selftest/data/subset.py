#!/usr/bin/env python3
r"""Copies some cases of a golden file: subset.py IN OUT CASE...

How the files beside were made, from the root of the repository with T=tests/goldens/data, D=src/selftest/data:
  $D/subset.py $T/selective_scan.safetensors $D/selective_scan.safetensors 01_b2_d3_l7_n5_Bv_Cv \
    11_b2_d4_l33_n5_Bc_Cc 15_b2_d6_l40_n7_Bg2_Cv 17_b2_d5_l50_n16_Bv_Cv_init 21_b2_d4_l48_n8_Bv_Cv_extreme \
    25_b1_d4_l20_n3_Bg2_Cg2_init_cplx
  $D/subset.py $T/laws_fp64/selective_scan.safetensors $D/selective_scan_laws.safetensors s03 s05 s09 s19
  $D/subset.py $T/causal_conv1d.safetensors $D/causal_conv1d.safetensors b2_d5_l2_w4_bias_silu_init \
    b2_d8_l17_w4_bias_silu b1_d2_l3_w8_bias_init packed_1_2_10_24_d6_w4
  $D/subset.py $T/norm.safetensors $D/norm.safetensors 0_rms_2x5x16_prenorm 1_rms_3x33_residual_prenorm \
    2_layer_2x3x7_residual_prenorm 3_layer_4x130
  $D/subset.py $T/mamba1_block.safetensors $D/mamba1_block.safetensors 1_b1_l1_m8 0_b2_l11_m16 3_b1_l9_m12
"""
import json
import struct
import sys


def main(source, target, cases):
    with open(source, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        data = file.read()
    metadata = header.pop("__metadata__")
    if "cases" in metadata:
        kept = {k: v for k, v in metadata.items() if not k.startswith("case/") or k[5:] in cases}
        kept["cases"] = json.dumps([c for c in json.loads(metadata["cases"]) if c in cases])
    else:
        kept = {k: v for k, v in metadata.items() if k in cases}
    out, body = {"__metadata__": kept}, b""
    width = {"F64": 0, "F32": 1, "I32": 2, "U8": 3}  # widest first keeps every tensor aligned
    for name, tensor in sorted(header.items(), key=lambda item: width[item[1]["dtype"]]):
        if name.split("/")[0] in cases:
            begin, end = tensor["data_offsets"]
            out[name] = {**tensor, "data_offsets": [len(body), len(body) + end - begin]}
            body += data[begin:end]
    text = json.dumps(out, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(target, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + body)


main(sys.argv[1], sys.argv[2], sys.argv[3:])
