#!/bin/sh
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
# Fail if clang-format 14, which the layout is pinned to, would change a file.
cd "$1" || exit 1
tool=clang-format-14
command -v $tool >/dev/null 2>&1 || tool=clang-format
case "$($tool --version 2>/dev/null)" in
*"version 14."*) ;;
*) echo "clang-format 14 is not installed"; exit 77 ;;
esac
find lib include tools examples tests -name '*.[ch]' -print0 | xargs -0 $tool --dry-run -Werror
