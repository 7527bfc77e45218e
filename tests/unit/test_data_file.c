/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Every way in which files and options can be wrong gets its code and a sentence with the name. */

#include <polder/data.h>

#include <string.h>

#include <polder/error.h>

#include "data/data.h"
#include "data_files.h"
#include "tap.h"

static const pld_data_opts llmc = {
    .struct_size = sizeof(llmc), .length = 8, .path_count = 1, .format = PLD_DATA_LLMC};
static const pld_data_opts text = {.struct_size = sizeof(text), .length = 8, .path_count = 1};

/* Opening `path` is refused with `code`, and the sentence holds `part`. */
static void refused(const char *what, pld_data_opts opts, const char *path, int code,
                    const char *part)
{
    const char *const paths[] = {path};
    pld_data *data = NULL;
    int rc;

    opts.paths = paths;
    rc = pldi_data_create(&opts, &data);
    ok(rc == code && data == NULL && strstr(pld_last_error(), part) != NULL, "%s: %s: %s", what,
       pld_error_name(rc), pld_last_error());
    pld_data_close(&data);
}

static const char *write_header(const char *name, uint32_t magic, uint32_t version, uint32_t tokens)
{
    const uint32_t words[512] = {magic, version, tokens};

    return write_bytes(name, words, sizeof(words)); /* 512 tokens of 2 bytes, or 256 of 4 */
}

static void check_llmc(void)
{
    refused("empty", llmc, write_bytes("e.bin", "", 0), PLD_ERR_CORRUPT, "e.bin' has 0 bytes");
    refused("half a header", llmc, write_bytes("h.bin", "\x08\xd7\x34\x01", 4), PLD_ERR_CORRUPT,
            "1024");
    refused("bad magic", llmc, write_header("m.bin", 20240326, 3, 512), PLD_ERR_CORRUPT,
            "m.bin' is no llm.c token file: it begins with 20240326");
    refused("bad version", llmc, write_header("v.bin", 20240520, 7, 512), PLD_ERR_CORRUPT,
            "version 7, not 1");
    refused("bad version", llmc, write_header("v.bin", 20240801, 1, 256), PLD_ERR_CORRUPT,
            "version 1, not 7");
    refused("truncated", llmc, write_header("t.bin", 20240520, 1, 600), PLD_ERR_CORRUPT,
            "t.bin' has 2048 bytes, but its header says 600 tokens: 2224 bytes");
    refused("too long", llmc, write_header("t.bin", 20240801, 7, 255), PLD_ERR_CORRUPT,
            "255 tokens: 2044 bytes");
    refused("2^32-1 tokens", llmc, write_header("t.bin", 20240801, 7, UINT32_MAX), PLD_ERR_CORRUPT,
            "17179870204 bytes");
    refused("text read as tokens", llmc, write_bytes("x", "to be or not to be", 18),
            PLD_ERR_CORRUPT, "18 bytes");
}

static void check_short(void)
{
    pld_data_opts blocks = text;

    refused("empty text", text, write_bytes("e", "", 0), PLD_ERR_ARG, "the longest of 1 has 0");
    refused("one token short", text, write_bytes("s", "12345678", 8), PLD_ERR_ARG, "need 9 tokens");
    blocks.batch = 3;
    blocks.order = PLD_DATA_SEQUENTIAL;
    refused("one token short of a block", blocks, write_bytes("b", "123456789012345678901234", 24),
            PLD_ERR_ARG, "need 25 tokens (length 8, batch 3");
}

static void check_options(void)
{
    const char *path = write_bytes("o", "0123456789", 10);
    pld_data_opts opts = text;
    pld_data *data = NULL;

    ok(pldi_data_create(NULL, &data) == PLD_ERR_ARG, "no options");
    opts.struct_size = 0;
    refused("struct_size 0", opts, path, PLD_ERR_ARG, "struct_size");
    opts = text;
    opts.length = 0;
    refused("length 0", opts, path, PLD_ERR_ARG, "length is 0");
    opts.length = INT64_MAX;
    refused("length 2^63-1", opts, path, PLD_ERR_ARG, "length is 9223372036854775807");
    opts.length = INT64_MAX / 8;
    refused("a length that no file has", opts, path, PLD_ERR_ARG, "no file is long enough");
    opts.batch = 3;
    refused("length * batch overflows", opts, path, PLD_ERR_ARG, "batch is 3");
    opts = text;
    opts.batch = -1;
    refused("batch -1", opts, path, PLD_ERR_ARG, "batch is -1");
    opts = text;
    opts.format = (pld_data_format)2;
    refused("format 2", opts, path, PLD_ERR_ARG, "format 2");
    opts = text;
    opts.order = (pld_data_order)-1;
    refused("order -1", opts, path, PLD_ERR_ARG, "order -1");
    refused("a NULL path", text, NULL, PLD_ERR_ARG, "paths[0]");
    refused("an empty path", text, "", PLD_ERR_ARG, "paths[0]");
    opts = text;
    opts.path_count = 0;
    refused("no path", opts, path, PLD_ERR_ARG, "no path");
}

static void check_permission(void)
{
    const char *file = write_bytes("secret", "0123456789", 10);

    (void)chmod(file, 0);
    (void)chmod(data_dir, 0711);
    if (geteuid() == 0 && seteuid(65534) != 0) {
        ok(1, "# SKIP root may read everything and cannot become nobody");
        return;
    }
    refused("no permission", text, file, PLD_ERR_IO, "secret': Permission denied");
    (void)seteuid(getuid());
    (void)chmod(file, 0600);
}

/* What happens to a file while it is open. */
static void check_changes(void)
{
    const char *path = write_tokens("shrink.bin", 2, 0, 4000);
    const uint32_t large[256 + 10] = {20240801, 7, 10, [256 + 9] = 0x80000000u};
    pld_data_opts opts = llmc;
    pld_data *data = NULL;
    int32_t out[9];
    int rc;

    opts.paths = &path;
    opts.order = PLD_DATA_SEQUENTIAL;
    ok(pldi_data_create(&opts, &data) == 0 && pld_data_sample(data, 400, out) == 0, "whole");
    (void)truncate(path, 2048);
    ok(pld_data_sample(data, 0, out) == 0, "what is left can still be read");
    rc = pld_data_sample(data, 400, out);
    ok(rc == PLD_ERR_CORRUPT && strstr(pld_last_error(), "shrink.bin") != NULL,
       "shortened while open: %s", pld_last_error());
    pld_data_close(&data);

    path = write_tokens("gone.bin", 2, 0, 40);
    ok(pldi_data_create(&opts, &data) == 0, "open another");
    (void)truncate(path, 1100);
    rc = pld_data_sample(data, 0, out);
    ok(rc == PLD_ERR_CORRUPT && strstr(pld_last_error(), "1100 bytes now, 1104") != NULL,
       "shortened before the first sample: %s", pld_last_error());
    (void)unlink(path);
    rc = pld_data_sample(data, 0, out);
    ok(rc == PLD_ERR_IO && strstr(pld_last_error(), "gone.bin") != NULL, "removed: %s",
       pld_last_error());
    (void)mkfifo(path, 0600);
    rc = pld_data_sample(data, 0, out);
    ok(rc == PLD_ERR_IO, "replaced by a pipe, does not hang: %s", pld_last_error());
    pld_data_close(&data);

    path = write_bytes("huge.bin", large, sizeof(large));
    ok(pldi_data_create(&opts, &data) == 0, "a file with a token of 2^31");
    rc = pld_data_sample(data, 0, out);
    ok(rc == 0, "is fine as long as nobody reads it: %d", rc);
    pld_data_close(&data);
    opts.length = 9;
    ok(pldi_data_create(&opts, &data) == 0, "longer samples");
    {
        int32_t longer[10];

        rc = pld_data_sample(data, 0, longer);
    }
    ok(rc == PLD_ERR_CORRUPT && strstr(pld_last_error(), "huge.bin' has a token of 2^31"),
       "is refused when read: %s", pld_last_error());
    pld_data_close(&data);
}

int main(void)
{
    if (!make_data_dir())
        return 1;
    check_llmc();
    check_short();
    check_options();
    check_permission();
    check_changes();
    remove_data_dir();
    return tap_done();
}
