/*
 * util/keyval: splitting of option strings, sizes with suffixes.
 */
#include "util/keyval.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "util/error.h"

/* The elements as "key>value|key>value", or the error's text behind "!". */
static char *split(const char *text, const char *implied)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) a = keyval_split(text, implied, &error);

    if (!a) {
        assert_non_null(error);
        return g_strconcat("!", error->message, NULL);
    }
    assert_null(error);
    GString *s = g_string_new(NULL);
    for (unsigned i = 0; i < a->len; i++) {
        struct keyval *kv = a->pdata[i];
        g_string_append_printf(s, "%s%s>%s", i ? "|" : "", kv->key, kv->value);
    }
    return g_string_free(s, FALSE);
}

static void assert_split(const char *text, const char *implied,
                         const char *expect)
{
    g_autofree char *got = split(text, implied);
    assert_string_equal(got, expect);
}

static void pairs_keep_their_order_and_duplicates(void **state)
{
    assert_split("b=1,a=2,b=3", NULL, "b>1|a>2|b>3");
    assert_split("file.filename=x,file.driver=file", NULL,
                 "file.filename>x|file.driver>file");
}

static void empty_text_has_no_elements(void **state)
{
    assert_split("", NULL, "");
    assert_split("", "driver", "");
}

static void doubled_comma_is_one_comma_of_the_value(void **state)
{
    assert_split("f=a,,b,g=,,", NULL, "f>a,b|g>,");
    assert_split("f=a,,,,b,,,g=1", NULL, "f>a,,b,|g>1");
}

static void value_may_be_empty_or_hold_equals(void **state)
{
    assert_split("a=,b==x=", NULL, "a>|b>=x=");
}

static void first_element_takes_the_implied_key(void **state)
{
    assert_split("qcow2,file=x", "driver", "driver>qcow2|file>x");
    assert_split("a,,b,c=d", "filename", "filename>a,b|c>d");
    assert_split("driver=raw", "driver", "driver>raw");
    assert_split(",a=b", "driver", "driver>|a>b");
}

static void bare_word_means_on(void **state)
{
    assert_split("readonly", NULL, "readonly>on");
    assert_split("x=1,readonly,y=2", "driver", "x>1|readonly>on|y>2");
    assert_split("raw,raw", "driver", "driver>raw|raw>on");
}

static void one_trailing_comma_is_accepted(void **state)
{
    assert_split("a=b,", NULL, "a>b");
    assert_split("a,", NULL, "a>on");
}

static void missing_name_is_refused(void **state)
{
    assert_split("=x", NULL, "!Missing parameter name before '=x' in '=x'");
    assert_split("a,,b", NULL, "!Missing parameter name before ',b' in 'a,,b'");
    g_autofree char *implied = split("=x", "driver");
    assert_int_equal(implied[0], '!');
    assert_null(keyval_split("=", NULL, NULL));
}

static void sizes_are_parsed(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } ok[] = {
        {"0", 0},
        {"512", 512},
        {"010", 10},
        {" 5k", 5120},
        {"+5k", 5120},
        {"1b", 1},
        {"1B", 1},
        {"64k", 65536},
        {"64K", 65536},
        {"1m", 1 << 20},
        {"3M", 3 << 20},
        {"1.5G", UINT64_C(3) << 29},
        {"1.0", 1},
        {"1.k", 1024},
        {"0.1k", 102},
        {"1.99999999999999999999k", 2047},
        {"2T", UINT64_C(2) << 40},
        {"8P", UINT64_C(8) << 50},
        {"15E", UINT64_C(15) << 60},
        {"0x200", 512},
        {"0X1fG", UINT64_C(31) << 30},
        {"0x1b", 27},
        {"18446744073709551615", UINT64_MAX},
        {"0xffffffffffffffff", UINT64_MAX},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(ok); i++) {
        uint64_t v = 1;
        GError *error = NULL;
        if (!keyval_parse_size("size", ok[i].text, &v, &error)) {
            fail_msg("%s: %s", ok[i].text, error->message);
        }
        assert_int_equal(v, ok[i].bytes);
    }
}

static void malformed_sizes_are_refused_and_leave_the_result(void **state)
{
    static const char *const bad[] = {
        "",
        "k",
        "-1",
        "-0",
        ".5k",
        "1.5",
        "1.5B",
        "1e3",
        "5kk",
        "5 k",
        "0x",
        "1,5",
        "16E",
        "0x.8k",
        "+ 5",
        "++5",
        "18446744073709551616",
        "0x10000000000000000",
        "17592186044416M",
        "99999999999999999999999999",
        "5k ",
    };
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        uint64_t v = 77;
        g_autoptr(GError) error = NULL;
        if (keyval_parse_size("size", bad[i], &v, &error)) {
            fail_msg("'%s' was taken for %llu", bad[i], (unsigned long long)v);
        }
        assert_int_equal(v, 77);
        assert_non_null(error);
        assert_true(g_error_matches(error, VARVE_ERROR, ERROR_GENERIC));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_keep_their_order_and_duplicates),
        cmocka_unit_test(empty_text_has_no_elements),
        cmocka_unit_test(doubled_comma_is_one_comma_of_the_value),
        cmocka_unit_test(value_may_be_empty_or_hold_equals),
        cmocka_unit_test(first_element_takes_the_implied_key),
        cmocka_unit_test(bare_word_means_on),
        cmocka_unit_test(one_trailing_comma_is_accepted),
        cmocka_unit_test(missing_name_is_refused),
        cmocka_unit_test(sizes_are_parsed),
        cmocka_unit_test(malformed_sizes_are_refused_and_leave_the_result),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
