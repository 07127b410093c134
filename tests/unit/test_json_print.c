/*
 * What a monitor prints: the form that clients know, ASCII, always valid.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "qmp/json_print.h"

static void expect(const char *json, bool pretty, const char *text)
{
    struct json_object *o = json_tokener_parse(json);
    g_autoptr(GString) out = g_string_new(NULL);

    json_print(out, o, pretty);
    assert_string_equal(out->str, text);
    json_object_put(o);
}

static void one_line_with_a_space_after_separators(void **state)
{
    expect("{\"a\":1,\"b\":[true,null,\"x\"],\"c\":{}}", false,
           "{\"a\": 1, \"b\": [true, null, \"x\"], \"c\": {}}");
    expect("[]", false, "[]");
    expect("null", false, "null");
}

static void pretty_is_indented_by_four(void **state)
{
    expect("{\"a\":{\"b\":[1,2]},\"c\":{},\"d\":[]}", true,
           "{\n"
           "    \"a\": {\n"
           "        \"b\": [\n"
           "            1,\n"
           "            2\n"
           "        ]\n"
           "    },\n"
           "    \"c\": {},\n"
           "    \"d\": []\n"
           "}");
}

static void numbers_keep_their_value(void **state)
{
    expect("[0,-1,9223372036854775807,-9223372036854775808]", false,
           "[0, -1, 9223372036854775807, -9223372036854775808]");
    expect("[18446744073709551615,9223372036854775808]", false,
           "[18446744073709551615, 9223372036854775808]");
    expect("[1.5,1e3,0.1]", false, "[1.5, 1000, 0.10000000000000001]");
}

static void prints(const char *bytes, size_t length, const char *text)
{
    g_autoptr(GString) out = g_string_new(NULL);

    json_print_string(out, bytes, length);
    assert_string_equal(out->str, text);
}

static void strings_are_escaped_to_ascii(void **state)
{
    prints("\"\\\b\f\n\r\t/<\x7f\x01", 11,
           "\"\\\"\\\\\\b\\f\\n\\r\\t/<\\u007F\\u0001\"");
    prints("a\0b", 3, "\"a\\u0000b\"");
    prints("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 9,
           "\"\\u00E4\\u20AC\\uD83D\\uDE00\"");
}

static void what_is_no_unicode_is_replaced(void **state)
{
    prints("a\xff"
           "b",
           3, "\"a\\uFFFDb\"");
    prints("\xe2\x82", 2, "\"\\uFFFD\\uFFFD\"");
    prints("\xed\xa0\x80", 3, "\"\\uFFFD\\uFFFD\\uFFFD\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_line_with_a_space_after_separators),
        cmocka_unit_test(pretty_is_indented_by_four),
        cmocka_unit_test(numbers_keep_their_value),
        cmocka_unit_test(strings_are_escaped_to_ascii),
        cmocka_unit_test(what_is_no_unicode_is_replaced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
