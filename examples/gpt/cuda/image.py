#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Write gpt_cuda_image.c: the bytes of a fatbin, or, without one, a text that says so."""
import pathlib
import sys

output = pathlib.Path(sys.argv[1])
image = pathlib.Path(sys.argv[2]).read_bytes() if len(sys.argv) > 2 else b"no device code\0"
body = ",\n".join(",".join(map(str, image[i:i + 32])) for i in range(0, len(image), 32))
output.write_text(f"""/* Made by image.py. */
#include <stddef.h>

extern const unsigned char gpt_cuda_image[];
extern const size_t gpt_cuda_image_bytes;

/* Aligned as the driver wants a fatbin. */
const unsigned char gpt_cuda_image[] __attribute__((aligned(16))) = {{
{body}}};
const size_t gpt_cuda_image_bytes = sizeof(gpt_cuda_image);
""")
