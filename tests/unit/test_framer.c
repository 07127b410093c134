/*
 * Cutting a byte stream into JSON texts: however the bytes arrive, the same
 * texts and errors come out, and after an error the stream goes on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "qmp/framer.h"

/* What comes out of a stream, one line each: "text" or "! message". */
static char *outcome(const char *data, size_t length, size_t step)
{
    struct framer f;
    GString *out = g_string_new(NULL);

    framer_init(&f);
    for (size_t at = 0; at < length;) {
        g_autoptr(GError) error = NULL;
        size_t used = 0;
        enum framer_result r =
            framer_feed(&f, data + at, MIN(step, length - at), &used, &error);
        assert_true(used <= length - at);
        assert_true(used > 0 || r != FRAMER_MORE);
        at += used;
        if (r == FRAMER_TEXT) {
            g_string_append_printf(out, "%s\n", f.text->str);
        } else if (r == FRAMER_ERROR) {
            assert_non_null(error);
            g_string_append_printf(out, "! %s\n", error->message);
        } else {
            assert_null(error);
        }
    }
    framer_clear(&f);
    return g_string_free(out, FALSE);
}

static void expect(const char *data, const char *lines)
{
    for (size_t step = 1; step <= strlen(data) + 1; step++) {
        g_autofree char *got = outcome(data, strlen(data), step);
        assert_string_equal(got, lines);
    }
}

static void texts_come_out_whole(void **state)
{
    expect("{}", "{}\n");
    expect(" {} [] ", "{}\n[]\n");
    expect("{\"a\": [1, 2, {\"b\": null}]}\r\n{}",
           "{\"a\": [1, 2, {\"b\": null}]}\n{}\n");
    expect("\"}{\" '][' {\"a\\\"}\": 1}", "\"}{\"\n']['\n{\"a\\\"}\": 1}\n");
    expect("12 -0.5e+3 true null ", "12\n-0.5e+3\ntrue\nnull\n");
    expect("[\n\t1\n]", "[  1 ]\n");
}

static void an_unfinished_text_is_waited_for(void **state)
{
    expect("{\"a\": [", "");
    expect("12", "");
    expect("\"abc", "");
}

static void grammar_errors_are_told_at_the_end_of_the_text(void **state)
{
    expect("{\"a\" 1} {}",
           "! JSON parse error, missing : in object pair\n{}\n");
    expect("[1 2 3] {}",
           "! JSON parse error, expected separator in list\n{}\n");
    expect("{\"a\": 1 \"b\"} {}",
           "! JSON parse error, expected separator in dict\n{}\n");
    expect("[1,] {}", "! JSON parse error, expecting value\n{}\n");
    expect("{\"a\": foo, bar} {}",
           "! JSON parse error, invalid keyword 'foo'\n{}\n");
    expect("{1: 2} {}",
           "! JSON parse error, key is not a string in object\n{}\n");
    expect("] } {}", "! JSON parse error, expecting value\n"
                     "! JSON parse error, expecting value\n{}\n");
    expect("{] {}", "! JSON parse error, expecting value\n{}\n");
}

static void stray_bytes_are_told_at_once(void **state)
{
    expect("{\"a\": \xff\n{}",
           "! JSON parse error, stray '\xef\xbf\xbd'\n{}\n");
    expect("\x01\n{}", "! JSON parse error, stray '\x01'\n{}\n");
    expect("{\"a\": 01\n{}", "! JSON parse error, stray '01'\n{}\n");
    expect("/ skipped \"x\" {}", "! JSON parse error, stray '/'\n{}\n");
    expect("/ skipped \n 1 ", "! JSON parse error, stray '/'\n1\n");
}

static void strings_must_be_unicode(void **state)
{
    expect("[\"\xc3\xa4\"]", "[\"\xc3\xa4\"]\n");
    expect("[\"\xe2\x28\xa1\"] {}",
           "! JSON parse error, invalid UTF-8 sequence in string\n{}\n");
    expect("[\"\xed\xa0\x80\"]",
           "! JSON parse error, invalid UTF-8 sequence in string\n");
    expect("[\"\\ud83d\\ude00\"]", "[\"\\ud83d\\ude00\"]\n");
    expect("[\"\\ud83d\"]",
           "! JSON parse error, \\ud83d is not a valid Unicode character\n");
    expect("[\"\\ud83d\\u0041\"]",
           "! JSON parse error, \\ud83d is not a valid Unicode character\n");
    expect("[\"\\ude00\"]",
           "! JSON parse error, \\ude00 is not a valid Unicode character\n");
    expect("[\"\\u12\"]",
           "! JSON parse error, \\u12\" is not a valid Unicode character\n");
    expect("[\"\\x\"]",
           "! JSON parse error, invalid escape sequence in string\n");
}

static void append_many(GString *s, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        g_string_append(s, text);
    }
}

static void too_deep_a_text_is_skipped_to_its_end(void **state)
{
    static const char error[] = "! JSON nesting depth limit exceeded\n";
    g_autoptr(GString) in = g_string_new(NULL);
    g_autoptr(GString) want = g_string_new(NULL);

    append_many(in, "[", 1000);
    append_many(in, "]", 1000);
    g_string_append(in, "{}");
    g_string_append_printf(want, "%s{}\n", error);
    for (size_t step = 1; step < in->len + 2; step += 97) {
        g_autofree char *got = outcome(in->str, in->len, step);
        assert_string_equal(got, want->str);
    }
    /* Without an end, a new line or 0xff helps. */
    g_string_truncate(in, 0);
    append_many(in, "{\"a\":", 1000);
    g_string_append(in, "\n{}");
    g_autofree char *line = outcome(in->str, in->len, in->len);
    assert_string_equal(line, want->str);
    g_string_truncate(in, 0);
    append_many(in, "[{\"a\":", 1000);
    g_string_append(in, "\xff{}");
    g_autofree char *byte = outcome(in->str, in->len, in->len);
    assert_string_equal(byte, want->str);
}

static void the_deepest_text_is_taken(void **state)
{
    g_autoptr(GString) in = g_string_new(NULL);

    append_many(in, "[", 128);
    append_many(in, "]", 128);
    g_autofree char *got = outcome(in->str, in->len, in->len);
    g_string_append_c(in, '\n');
    assert_string_equal(got, in->str);
}

static void too_long_a_text_is_refused(void **state)
{
    g_autoptr(GString) in = g_string_new("[\"");

    append_many(in, "0123456789abcdef", FRAMER_MAX_BYTES / 16);
    g_string_append(in, "\"]{}");
    g_autofree char *size = outcome(in->str, in->len, 65536);
    assert_string_equal(size, "! JSON token size limit exceeded\n{}\n");

    g_string_assign(in, "[");
    append_many(in, "0,", FRAMER_MAX_TOKENS);
    g_string_append(in, "0]{}");
    g_autofree char *count = outcome(in->str, in->len, 65536);
    assert_string_equal(count, "! JSON token count limit exceeded\n{}\n");
}

static void garbage_never_hangs_nor_crashes(void **state)
{
    static const char alphabet[] = "{}[]:,\"'\\ \n\tu019.-+eEtruefalsnab/\xff";
    GRand *rand = g_rand_new_with_seed(7);
    char data[64];

    for (int round = 0; round < 20000; round++) {
        size_t n = (size_t)g_rand_int_range(rand, 1, sizeof(data));
        for (size_t i = 0; i < n; i++) {
            data[i] = alphabet[g_rand_int_range(rand, 0, sizeof(alphabet))];
        }
        g_autofree char *whole = outcome(data, n, n);
        g_autofree char *bytes = outcome(data, n, 1);
        assert_string_equal(whole, bytes);
    }
    g_rand_free(rand);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_come_out_whole),
        cmocka_unit_test(an_unfinished_text_is_waited_for),
        cmocka_unit_test(grammar_errors_are_told_at_the_end_of_the_text),
        cmocka_unit_test(stray_bytes_are_told_at_once),
        cmocka_unit_test(strings_must_be_unicode),
        cmocka_unit_test(too_deep_a_text_is_skipped_to_its_end),
        cmocka_unit_test(the_deepest_text_is_taken),
        cmocka_unit_test(too_long_a_text_is_refused),
        cmocka_unit_test(garbage_never_hangs_nor_crashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
