/*
 * Numbers in and out: sizes that people type, and the lines that say how much
 * was moved in which time.
 */
#include "block/io_command/io_command_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "block/types.h"
#include "util/keyval.h"
#include "util/range.h"

#define SECOND_NS INT64_C(1000000000)

/* ---- in ---- */

/* "0x1k" is likely not what was meant. */
static bool hex_with_suffix(const char *text)
{
    const char *digits = text + (*text == '+');

    return digits[0] == '0' && g_ascii_tolower(digits[1]) == 'x' &&
           !g_ascii_isxdigit(digits[strlen(digits) - 1]);
}

bool io_parse_number(struct io_session *s, const char *text, int64_t *number)
{
    uint64_t value;
    int ret = keyval_size(text, &value);

    if (ret != -EINVAL && hex_with_suffix(text)) {
        io_complain(s,
                    "warning: Using a multiplier suffix on hex numbers is "
                    "deprecated: %s",
                    text);
    }
    if (ret == 0 && value <= INT64_MAX) {
        *number = (int64_t)value;
        return true;
    }
    fprintf(s->out, "Parsing error: %s -- %s\n",
            ret == -EINVAL
                ? "non-numeric argument, or extraneous/unrecognized suffix"
                : "argument too large",
            text);
    return false;
}

bool io_parse_length(struct io_session *s, const char *text, const char *unless,
                     int64_t *bytes)
{
    if (!io_parse_number(s, text, bytes)) {
        return false;
    }
    if (*bytes > BLOCK_MAX_TRANSFER) {
        fprintf(s->out, "length cannot exceed %" PRId64 "%s, given %s\n",
                (int64_t)BLOCK_MAX_TRANSFER, unless, text);
        return false;
    }
    return true;
}

bool io_parse_pattern(struct io_session *s, const char *text, int *pattern)
{
    char *end;
    long value = strtol(text, &end, 0);

    if (end == text || *end || value < 0 || value > 255) {
        fprintf(s->out, "%s is not a valid pattern byte\n", text);
        return false;
    }
    *pattern = (int)value;
    return true;
}

bool io_check_pattern(struct io_session *s, unsigned char letter,
                      const char *text)
{
    int pattern;
    return letter != 'P' || io_parse_pattern(s, text, &pattern);
}

bool io_check_sector(struct io_session *s, const char *what, int64_t value)
{
    if (value % BLOCK_SECTOR_SIZE == 0) {
        return true;
    }
    fprintf(s->out, "%" PRId64 " is not a sector-aligned value for '%s'\n",
            value, what);
    return false;
}

/* ---- out ---- */

char *io_size_text(double bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB",
                                        "TiB",   "PiB", "EiB"};
    unsigned unit = 0;

    while (bytes >= 1024 && unit + 1 < G_N_ELEMENTS(units)) {
        bytes /= 1024;
        unit++;
    }
    char number[64];
    g_snprintf(number, sizeof(number), unit ? "%.3f" : "%f", bytes);
    char *point = strchr(number, '.');
    if (point && strspn(point + 1, "0") == strlen(point + 1)) {
        *point = 0;
    }
    return g_strdup_printf("%s %s", number, units[unit]);
}

int64_t io_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND_NS + t.tv_nsec;
}

static char *time_text(int64_t ns, bool fixed)
{
    int64_t seconds = ns / SECOND_NS;
    unsigned h = (unsigned)(seconds / 3600), m = seconds / 60 % 60,
             sec = seconds % 60;
    unsigned hundredths = ns % SECOND_NS / (SECOND_NS / 100);

    if (h || fixed) {
        return g_strdup_printf("%u:%02u:%02u.%02u", h, m, sec, hundredths);
    }
    if (m) {
        return g_strdup_printf("%02u:%02u.%02u", m, sec, hundredths);
    }
    return g_strdup_printf("%02u.%02u sec", sec, hundredths);
}

void io_report(struct io_session *s, const struct io_args *args, const char *op,
               int64_t since, int64_t offset, int64_t bytes)
{
    int64_t ns = max_i64(io_now_ns() - since, 1);
    double a_second = (double)SECOND_NS / ns;

    if (args->given['q']) {
        return;
    }
    g_autofree char *took = time_text(ns, args->given['C']);
    if (args->given['C']) {
        fprintf(s->out, "%" PRId64 ",1,%s,%.3f,%.3f\n", bytes, took,
                bytes * a_second, a_second);
        return;
    }
    g_autofree char *size = io_size_text(bytes);
    g_autofree char *rate = io_size_text(bytes * a_second);
    fprintf(s->out, "%s %" PRId64 "/%" PRId64 " bytes at offset %" PRId64 "\n",
            op, bytes, bytes, offset);
    fprintf(s->out, "%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n", size, took,
            rate, a_second);
}
