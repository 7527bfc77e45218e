#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Write cuda_image.c: the bytes of a fatbin, or, without one, a text that says so."""
import pathlib
import sys

output = pathlib.Path(sys.argv[1])
image = pathlib.Path(sys.argv[2]).read_bytes() if len(sys.argv) > 2 else b""
body = ",\n".join(",".join(map(str, image[i:i + 32])) for i in range(0, len(image), 32))
output.write_text(f"""/* Made by cuda_image.py. */
#include "cuda/cuda_kernels.h"

/* Aligned as the driver wants a fatbin. */
const unsigned char pldi_cuda_image[] __attribute__((aligned(16))) = {body and "{" + body + "}"
                                                                     or "PLDI_CUDA_NO_IMAGE"};
const size_t pldi_cuda_image_bytes = sizeof(pldi_cuda_image);
""")
