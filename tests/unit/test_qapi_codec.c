/*
 * qapi codec: decoding with exact error paths, encoding, copying, freeing.
 */
#include "qapi/codec.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <json-c/json.h>

#include "qapi/introspect.h"
#include "qapi/types.h"

static struct json_object *json(const char *text)
{
    struct json_object *object = json_tokener_parse(text);
    assert_non_null(object);
    return object;
}

/* Decodes, clones, frees the original and encodes the clone: compact JSON, or
 * "!" and the error. */
static char *round_trip(const struct qapi_type *type, const char *text)
{
    g_autoptr(GError) error = NULL;
    struct json_object *in = json(text);
    void *value = qapi_decode(type, in, &error);
    json_object_put(in);
    if (!value) {
        assert_non_null(error);
        return g_strconcat("!", error->message, NULL);
    }
    assert_null(error);
    void *copy = qapi_clone(type, value);
    qapi_free(type, value);
    char *out = qapi_encode_text(type, copy);
    qapi_free(type, copy);
    return out;
}

static void check(const struct qapi_type *type, const char *text,
                  const char *expected)
{
    g_autofree char *got = round_trip(type, text);
    assert_string_equal(got, expected);
}

static void same(const struct qapi_type *type, const char *text)
{
    check(type, text, text);
}

#define NODE(text, expected) check(&qapi_type_blockdev_options, text, expected)

static void union_takes_the_branch_of_its_tag(void **state)
{
    same(&qapi_type_blockdev_options, "{\"driver\":\"null-co\",\"node-name\":"
                                      "\"a\",\"size\":9223372036854775807}");
    same(&qapi_type_transaction_action, "{\"type\":\"abort\",\"data\":{}}");
    NODE("{\"size\":1,\"driver\":\"null-co\"}",
         "{\"driver\":\"null-co\",\"size\":1}");
}

static void branch_without_members_takes_none(void **state)
{
    same(&qapi_type_blockdev_create_options, "{\"driver\":\"raw\"}");
    check(&qapi_type_blockdev_create_options, "{\"driver\":\"raw\",\"size\":1}",
          "!Parameter 'size' is unexpected");
}

static void alternate_goes_by_the_json_kind(void **state)
{
    same(&qapi_type_blockdev_options,
         "{\"driver\":\"qcow2\",\"file\":\"a\",\"backing\":null}");
    same(&qapi_type_blockdev_options,
         "{\"driver\":\"qcow2\",\"file\":{\"driver\":\"null-co\"},"
         "\"backing\":\"b\",\"overlap-check\":\"all\"}");
    same(&qapi_type_blockdev_options,
         "{\"driver\":\"qcow2\",\"file\":\"a\",\"overlap-check\":{"
         "\"template\":\"none\",\"active-l1\":true}}");
    same(&qapi_type_block_dirty_bitmap_merge,
         "{\"node\":\"n\",\"target\":\"t\",\"bitmaps\":[\"a\",{\"node\":\"o\","
         "\"name\":\"b\"}]}");
    NODE("{\"driver\":\"qcow2\",\"file\":3}",
         "!Invalid parameter type for 'file', expected: BlockdevRef");
    NODE("{\"driver\":\"qcow2\",\"file\":null}",
         "!Invalid parameter type for 'file', expected: BlockdevRef");
    check(&qapi_type_block_dirty_bitmap_merge,
          "{\"node\":\"n\",\"target\":\"t\",\"bitmaps\":[\"a\",3]}",
          "!Invalid parameter type for 'bitmaps[1]', expected: "
          "BlockDirtyBitmapOrStr");
}

static void alternate_in_c_tells_its_kind(void **state)
{
    struct json_object *in =
        json("{\"driver\":\"qcow2\",\"file\":\"a\",\"backing\":null,"
             "\"overlap-check\":\"cached\"}");
    qapi_auto(blockdev_options) o = blockdev_options_decode(in, NULL);
    json_object_put(in);
    assert_int_equal(o->driver, BLOCKDEV_DRIVER_QCOW2);
    assert_int_equal(o->u.qcow2.file->kind, QAPI_KIND_STRING);
    assert_string_equal(o->u.qcow2.file->u.reference, "a");
    assert_int_equal(o->u.qcow2.backing->kind, QAPI_KIND_NULL);
    assert_int_equal(o->u.qcow2.overlap_check->kind, QAPI_KIND_STRING);
    assert_int_equal(o->u.qcow2.overlap_check->u.mode,
                     QCOW2_OVERLAP_CHECK_MODE_CACHED);
    assert_null(o->u.qcow2.encrypt);
    assert_false(o->u.qcow2.has_lazy_refcounts);
    assert_null(o->node_name);
}

static void errors_name_the_whole_path(void **state)
{
    NODE("{}", "!Parameter 'driver' is missing");
    NODE("{\"driver\":3}",
         "!Invalid parameter type for 'driver', expected: string");
    NODE("{\"driver\":\"foo\"}",
         "!Parameter 'driver' does not accept value 'foo'");
    NODE("{\"driver\":\"qcow2\"}", "!Parameter 'file' is missing");
    NODE("{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\"}}",
         "!Parameter 'file.filename' is missing");
    NODE("{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":3}}",
         "!Invalid parameter type for 'file.filename', expected: string");
    NODE("{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":"
         "\"x\",\"bar\":1}}",
         "!Parameter 'file.bar' is unexpected");
    NODE("{\"driver\":\"null-co\",\"cache\":1}",
         "!Invalid parameter type for 'cache', expected: object");
    NODE("{\"driver\":\"null-co\",\"read-zeroes\":1}",
         "!Invalid parameter type for 'read-zeroes', expected: boolean");
    NODE("{\"driver\":\"blkdebug\",\"image\":\"x\",\"inject-error\":[{"
         "\"event\":\"none\"},{}]}",
         "!Parameter 'inject-error[1].event' is missing");
    NODE("{\"driver\":\"blkdebug\",\"image\":\"x\",\"inject-error\":[3]}",
         "!Invalid parameter type for 'inject-error[0]', expected: object");
    NODE("{\"driver\":\"blkdebug\",\"image\":\"x\",\"inject-error\":{}}",
         "!Invalid parameter type for 'inject-error', expected: array");
    check(&qapi_type_transaction_args,
          "{\"actions\":[{\"type\":\"abort\",\"data\":{}},{\"type\":"
          "\"block-dirty-bitmap-add\",\"data\":{\"node\":\"x\"}}]}",
          "!Parameter 'actions[1].data.name' is missing");
    check(&qapi_type_transaction_args,
          "{\"actions\":[{\"type\":\"abort\",\"data\":{\"q\":1}}]}",
          "!Parameter 'actions[0].data.q' is unexpected");
}

static void numbers_out_of_range_are_refused(void **state)
{
    NODE("{\"driver\":\"null-co\",\"size\":9223372036854775808}",
         "!Invalid parameter type for 'size', expected: integer");
    NODE("{\"driver\":\"null-co\",\"size\":1.0}",
         "!Invalid parameter type for 'size', expected: integer");
    NODE("{\"driver\":\"null-co\",\"size\":-9223372036854775808}",
         "{\"driver\":\"null-co\",\"size\":-9223372036854775808}");
    NODE("{\"driver\":\"null-co\",\"latency-ns\":18446744073709551615}",
         "{\"driver\":\"null-co\",\"latency-ns\":18446744073709551615}");
    NODE("{\"driver\":\"null-co\",\"latency-ns\":-1}",
         "!Parameter 'latency-ns' expects uint64");
    check(&qapi_type_block_dirty_bitmap_add,
          "{\"node\":\"a\",\"name\":\"b\",\"granularity\":4294967295}",
          "{\"node\":\"a\",\"name\":\"b\",\"granularity\":4294967295}");
    check(&qapi_type_block_dirty_bitmap_add,
          "{\"node\":\"a\",\"name\":\"b\",\"granularity\":4294967296}",
          "!Parameter 'granularity' expects uint32_t");
    check(&qapi_type_block_dirty_bitmap_add,
          "{\"node\":\"a\",\"name\":\"b\",\"granularity\":-1}",
          "!Parameter 'granularity' expects uint32_t");
    NODE("{\"driver\":\"blkdebug\",\"image\":\"x\",\"max-transfer\":"
         "2147483648}",
         "!Parameter 'max-transfer' expects int32_t");
    NODE("{\"driver\":\"blkdebug\",\"image\":\"x\",\"max-transfer\":"
         "-2147483648}",
         "{\"driver\":\"blkdebug\",\"image\":\"x\",\"max-transfer\":"
         "-2147483648}");
}

static void integers_of_another_type_are_refused(void **state)
{
    NODE("{\"driver\":\"null-co\",\"latency-ns\":true}",
         "!Parameter 'latency-ns' expects uint64");
    check(&qapi_type_block_dirty_bitmap_add,
          "{\"node\":\"a\",\"name\":\"b\",\"granularity\":\"x\"}",
          "!Parameter 'granularity' expects uint64");
    NODE("{\"driver\":\"blkdebug\",\"image\":\"x\",\"max-transfer\":"
         "9223372036854775808}",
         "!Invalid parameter type for 'max-transfer', expected: integer");
    NODE("{\"driver\":\"null-co\",\"size\":null}",
         "!Invalid parameter type for 'size', expected: integer");
}

static void strings_with_a_zero_byte_are_refused(void **state)
{
    NODE("{\"driver\":\"null-co\",\"node-name\":\"a\\u0000b\"}",
         "!Parameter 'node-name' contains a NUL character");
    NODE("{\"driver\":\"null-co\\u0000\"}",
         "!Parameter 'driver' contains a NUL character");
}

static void number_takes_integers_but_no_infinity(void **state)
{
    struct json_object *in = json("[1,2.5]");
    qapi_auto(number_list) list = number_list_decode(in, NULL);
    json_object_put(in);
    assert_int_equal(list->n, 2);
    assert_true(list->items[0] == 1 && list->items[1] == 2.5);
    g_autofree char *got = round_trip(&qapi_type_number_list, "[1e999]");
    assert_string_equal(got, "!Parameter '[0]' expects a finite number");
}

static void lists_of_each_kind_survive(void **state)
{
    same(&qapi_type_str_list, "[\"a\",\"\",\"b\"]");
    same(&qapi_type_str_list, "[]");
    same(&qapi_type_int8_list, "[-128,127]");
    same(&qapi_type_uint8_list, "[0,255]");
    same(&qapi_type_int16_list, "[-32768,32767]");
    same(&qapi_type_uint16_list, "[65535]");
    same(&qapi_type_uint64_list, "[18446744073709551615]");
    same(&qapi_type_bool_list, "[true,false]");
    same(&qapi_type_any_list, "[{\"a\":[1,null]},3,\"x\"]");
    check(&qapi_type_int8_list, "[128]", "!Parameter '[0]' expects int8_t");
    check(&qapi_type_str_list, "[\"a\",null]",
          "!Invalid parameter type for '[1]', expected: string");
    check(&qapi_type_str_list, "{\"0\":\"a\"}",
          "!Invalid parameter type for 'arguments', expected: array");
}

static void list_append_grows(void **state)
{
    qapi_auto(int_list) list = g_new0(struct int_list, 1);
    for (int64_t i = 0; i < 1000; i++) {
        qapi_list_append(list, i * i);
    }
    assert_int_equal(list->n, 1000);
    for (int64_t i = 0; i < 1000; i++) {
        assert_int_equal(list->items[i], i * i);
    }
}

static void failing_late_leaves_nothing_behind(void **state)
{
    /* Each string is allocated before the last member fails; the leak checker
     * is the judge. */
    NODE("{\"driver\":\"qcow2\",\"node-name\":\"n\",\"file\":{\"driver\":"
         "\"blkdebug\",\"image\":{\"driver\":\"file\",\"filename\":\"x\"},"
         "\"config\":\"c\",\"inject-error\":[{\"event\":\"none\"},{\"event\":"
         "\"x\"}]}}",
         "!Parameter 'file.inject-error[1].event' does not accept value 'x'");
}

static char *nested(int levels)
{
    GString *text = g_string_new(NULL);
    for (int i = 0; i < levels; i++) {
        g_string_append(text, "{\"driver\":\"raw\",\"file\":");
    }
    g_string_append(text, "\"x\"");
    for (int i = 0; i < levels; i++) {
        g_string_append(text, "}");
    }
    return g_string_free(text, FALSE);
}

static void deep_nesting_is_refused(void **state)
{
    struct json_tokener *tokener = json_tokener_new_ex(10000);
    for (int levels = 10; levels <= 5000; levels += 4990) {
        g_autofree char *text = nested(levels);
        g_autoptr(GError) error = NULL;
        struct json_object *in =
            json_tokener_parse_ex(tokener, text, (int)strlen(text));
        qapi_auto(blockdev_options) o = blockdev_options_decode(in, &error);
        json_object_put(in);
        assert_true((o != NULL) == (levels == 10));
        if (!o) {
            assert_true(g_str_has_suffix(error->message, "is nested too deep"));
        }
    }
    json_tokener_free(tokener);
}

static void commands_without_arguments_refuse_any(void **state)
{
    g_autoptr(GError) error = NULL;
    struct json_object *none = json("{}");
    struct json_object *some = json("{\"z\":{\"a\":[]}}");
    assert_true(qapi_decode_nothing(NULL, &error));
    assert_true(qapi_decode_nothing(none, &error));
    assert_null(error);
    assert_false(qapi_decode_nothing(some, &error));
    assert_string_equal(error->message, "Parameter 'z' is unexpected");
    json_object_put(none);
    json_object_put(some);
}

static void missing_arguments_are_empty_ones(void **state)
{
    g_autoptr(GError) error = NULL;
    qapi_auto(query_named_block_nodes_args) args =
        qapi_decode_args(&qapi_type_query_named_block_nodes_args, NULL, &error);
    assert_non_null(args);
    assert_false(args->has_flat);
    assert_null(qapi_decode_args(&qapi_type_blockdev_options, NULL, &error));
    assert_string_equal(error->message, "Parameter 'driver' is missing");
}

static void zeroed_values_can_be_freed_and_cloned(void **state)
{
    qapi_auto(blockdev_options) o = g_new0(struct blockdev_options, 1);
    qapi_auto(blockdev_options) copy = blockdev_options_clone(o);
    assert_non_null(copy);
    qapi_free(&qapi_type_blockdev_options, NULL);
    assert_null(qapi_clone(&qapi_type_blockdev_options, NULL));
}

static void clone_shares_nothing(void **state)
{
    struct json_object *in =
        json("{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":"
             "\"x\"}}");
    qapi_auto(blockdev_options) o = blockdev_options_decode(in, NULL);
    json_object_put(in);
    qapi_auto(blockdev_options) copy = blockdev_options_clone(o);
    struct blockdev_ref *a = o->u.raw.file, *b = copy->u.raw.file;
    assert_ptr_not_equal(a, b);
    assert_ptr_not_equal(a->u.definition.u.file.filename,
                         b->u.definition.u.file.filename);
}

static void enum_names_go_both_ways(void **state)
{
    enum blockdev_driver driver = BLOCKDEV_DRIVER_RAW;
    assert_string_equal(blockdev_driver_str(BLOCKDEV_DRIVER_NULL_CO),
                        "null-co");
    assert_true(blockdev_driver_parse("copy-before-write", &driver));
    assert_int_equal(driver, BLOCKDEV_DRIVER_COPY_BEFORE_WRITE);
    assert_false(blockdev_driver_parse("nul", &driver));
    assert_int_equal(driver, BLOCKDEV_DRIVER_COPY_BEFORE_WRITE);
    assert_null(blockdev_driver_str(BLOCKDEV_DRIVER__COUNT));
}

static void events_carry_name_and_data(void **state)
{
    struct job_status_change_event data = {.id = (char *)"job0",
                                           .status = JOB_STATUS_RUNNING};
    struct json_object *event = qapi_event_job_status_change(&data);
    assert_string_equal(
        json_object_to_json_string_ext(event, JSON_C_TO_STRING_PLAIN),
        "{\"event\":\"JOB_STATUS_CHANGE\",\"data\":{\"id\":\"job0\","
        "\"status\":\"running\"}}");
    json_object_put(event);
    event = qapi_event_stop();
    assert_string_equal(
        json_object_to_json_string_ext(event, JSON_C_TO_STRING_PLAIN),
        "{\"event\":\"STOP\"}");
    json_object_put(event);
}

static bool only_stop(const char *command, void *opaque)
{
    return !strcmp(command, opaque);
}

/* The entry of a name, or NULL. */
static struct json_object *entry(struct json_object *schema, const char *name)
{
    for (size_t i = 0; i < json_object_array_length(schema); i++) {
        struct json_object *e = json_object_array_get_idx(schema, i);
        if (!strcmp(json_object_get_string(json_object_object_get(e, "name")),
                    name)) {
            return e;
        }
    }
    return NULL;
}

static void introspection_leaves_out_what_is_not_available(void **state)
{
    struct json_object *schema = qapi_introspect(only_stop, (void *)"stop");
    assert_non_null(entry(schema, "stop"));
    assert_non_null(entry(schema, "JOB_STATUS_CHANGE"));
    assert_null(entry(schema, "cont"));
    assert_null(entry(schema, "blockdev-add"));
    size_t few = json_object_array_length(schema);
    for (size_t i = 0; i < few; i++) {
        /* Each type that an entry names is there. */
        struct json_object *arg = json_object_object_get(
            json_object_array_get_idx(schema, i), "arg-type");
        assert_true(!arg || entry(schema, json_object_get_string(arg)));
    }
    json_object_put(schema);
    schema = qapi_introspect(only_stop, (void *)"blockdev-add");
    assert_true(json_object_array_length(schema) > few);
    json_object_put(schema);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(union_takes_the_branch_of_its_tag),
        cmocka_unit_test(branch_without_members_takes_none),
        cmocka_unit_test(alternate_goes_by_the_json_kind),
        cmocka_unit_test(alternate_in_c_tells_its_kind),
        cmocka_unit_test(errors_name_the_whole_path),
        cmocka_unit_test(numbers_out_of_range_are_refused),
        cmocka_unit_test(integers_of_another_type_are_refused),
        cmocka_unit_test(strings_with_a_zero_byte_are_refused),
        cmocka_unit_test(number_takes_integers_but_no_infinity),
        cmocka_unit_test(lists_of_each_kind_survive),
        cmocka_unit_test(list_append_grows),
        cmocka_unit_test(failing_late_leaves_nothing_behind),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(commands_without_arguments_refuse_any),
        cmocka_unit_test(missing_arguments_are_empty_ones),
        cmocka_unit_test(zeroed_values_can_be_freed_and_cloned),
        cmocka_unit_test(clone_shares_nothing),
        cmocka_unit_test(enum_names_go_both_ways),
        cmocka_unit_test(events_carry_name_and_data),
        cmocka_unit_test(introspection_leaves_out_what_is_not_available),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
