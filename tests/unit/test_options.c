/*
 * qapi/options and qapi/json: option strings, JSON in file names, plain names.
 */
#include "qapi/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <json-c/json.h>

#include "qapi/json.h"

/* The options as compact JSON, or "!" and the error. */
static char *blockdev(const char *text)
{
    g_autoptr(GError) error = NULL;
    qapi_auto(blockdev_options) options =
        qapi_blockdev_options_parse(text, &error);
    if (!options) {
        assert_non_null(error);
        return g_strconcat("!", error->message, NULL);
    }
    assert_null(error);
    return qapi_encode_text(&qapi_type_blockdev_options, options);
}

static char *filename(const char *text)
{
    g_autoptr(GError) error = NULL;
    qapi_auto(blockdev_options) options =
        qapi_blockdev_from_filename(text, &error);
    if (!options) {
        assert_non_null(error);
        return g_strconcat("!", error->message, NULL);
    }
    assert_null(error);
    return qapi_encode_text(&qapi_type_blockdev_options, options);
}

static void check(char *got, const char *expected)
{
    assert_string_equal(got, expected);
    g_free(got);
}

static void dotted_keys_make_a_tree(void **state)
{
    check(blockdev("driver=qcow2,node-name=top,file.driver=file,"
                   "file.filename=a,,b.img,file.locking=off,cache.direct=on"),
          "{\"driver\":\"qcow2\",\"node-name\":\"top\",\"cache\":{\"direct\":"
          "true},\"file\":{\"driver\":\"file\",\"filename\":\"a,b.img\","
          "\"locking\":\"off\"}}");
}

static void driver_is_the_implied_key(void **state)
{
    check(blockdev("null-co,size=0x200"),
          "{\"driver\":\"null-co\",\"size\":512}");
}

static void reference_stays_a_string(void **state)
{
    check(blockdev("raw,file=node0"),
          "{\"driver\":\"raw\",\"file\":\"node0\"}");
}

static void indexes_make_lists(void **state)
{
    check(blockdev("blkdebug,image=x,inject-error.0.event=none,"
                   "inject-error.1.event=l2_load,inject-error.1.errno=28"),
          "{\"driver\":\"blkdebug\",\"image\":\"x\",\"inject-error\":[{"
          "\"event\":\"none\"},{\"event\":\"l2_load\",\"errno\":28}]}");
    check(blockdev("blkdebug,image=x,take-child-perms.0=write,"
                   "take-child-perms.1=resize"),
          "{\"driver\":\"blkdebug\",\"image\":\"x\",\"take-child-perms\":["
          "\"write\",\"resize\"]}");
}

static void list_with_a_gap_is_refused(void **state)
{
    check(blockdev("blkdebug,image=x,inject-error.1.event=none"),
          "!Parameter 'inject-error.0' missing");
    check(blockdev("blkdebug,image=x,inject-error.00.event=none"),
          "!Parameter 'inject-error.0' missing");
    check(blockdev("blkdebug,image=x,inject-error=none"),
          "!Invalid parameter type for 'inject-error', expected: array");
}

static void typed_scalars_are_checked(void **state)
{
    check(blockdev("null-co,read-zeroes=x"),
          "!Parameter 'read-zeroes' expects 'on' or 'off'");
    check(blockdev("null-co,read-zeroes=yes"),
          "{\"driver\":\"null-co\",\"read-zeroes\":true}");
    check(blockdev("null-co,size=1k"),
          "{\"driver\":\"null-co\",\"size\":1024}");
    check(blockdev("null-co,size=1x"), "!Parameter 'size' expects integer");
    check(blockdev("null-co,size=99999999999999999999"),
          "!Parameter 'size' expects integer");
    check(blockdev("null-co,size="), "!Parameter 'size' expects integer");
    check(blockdev("copy-before-write,file=x,target=y,cbw-timeout=-1"),
          "!Parameter 'cbw-timeout' expects uint32_t");
    check(blockdev("null-co,cache.direct=maybe"),
          "!Parameter 'cache.direct' expects 'on' or 'off'");
    check(blockdev("null-co,detect-zeroes=of"),
          "!Parameter 'detect-zeroes' does not accept value 'of'");
}

static void sizes_take_suffixes(void **state)
{
    g_autoptr(GError) error = NULL;
    qapi_auto(blockdev_create_options) create = qapi_options_parse(
        &qapi_type_blockdev_create_options,
        "qcow2,file=x,size=1.5G,cluster-size=64k", "driver", &error);
    assert_null(error);
    assert_int_equal(create->u.qcow2.size, 3ull << 29);
    assert_int_equal(create->u.qcow2.cluster_size, 65536);
}

static void empty_backing_means_none(void **state)
{
    check(blockdev("qcow2,file=x,backing="),
          "{\"driver\":\"qcow2\",\"file\":\"x\",\"backing\":null}");
}

static void contradictions_are_refused(void **state)
{
    check(blockdev("null-co,cache.direct=on,cache=x"),
          "!Parameters 'cache.*' used inconsistently");
    check(blockdev("null-co,cache=x,cache.direct=on"),
          "!Parameters 'cache.*' used inconsistently");
    check(blockdev("null-co,size=1,size=2"),
          "{\"driver\":\"null-co\",\"size\":2}");
    check(blockdev("null-co,a..b=1"), "!Invalid parameter 'a..b'");
    check(blockdev("null-co,a.=1"), "!Invalid parameter 'a.'");
}

static void unknown_and_missing_keys_are_named(void **state)
{
    check(blockdev("qcow2,file.driver=file,file.filename=x,file.foo=1"),
          "!Parameter 'file.foo' is unexpected");
    check(blockdev("qcow2,file.driver=file"),
          "!Parameter 'file.filename' is missing");
    check(blockdev("node-name=a"), "!Parameter 'driver' is missing");
    check(blockdev("nul"), "!Parameter 'driver' does not accept value 'nul'");
}

static void deep_dotted_keys_are_refused(void **state)
{
    GString *text = g_string_new("qcow2,file");
    for (int i = 0; i < 100000; i++) {
        g_string_append(text, ".file");
    }
    g_string_append(text, "=x");
    g_autofree char *got = blockdev(text->str);
    assert_true(g_str_has_prefix(got, "!Invalid parameter 'file.file"));
    g_string_free(text, TRUE);
}

static void nested_nodes_have_a_limit(void **state)
{
    GString *text = g_string_new("raw,file");
    for (int i = 0; i < 80; i++) {
        g_string_append(text, ".file");
    }
    g_string_append(text, "=x");
    g_autofree char *got = blockdev(text->str);
    assert_true(got[0] == '!');
    g_string_free(text, TRUE);
}

static void json_text_is_strictly_typed(void **state)
{
    check(blockdev("{\"driver\":\"null-co\",\"size\":512}"),
          "{\"driver\":\"null-co\",\"size\":512}");
    check(blockdev("{\"driver\":\"null-co\",\"size\":\"512\"}"),
          "!Invalid parameter type for 'size', expected: integer");
    check(blockdev("{\"driver\":\"qcow2\",\"file.driver\":\"null-co\"}"),
          "!Parameter 'file' is missing");
}

static void json_file_names_may_be_flat_and_untyped(void **state)
{
    check(filename("json:{'driver':'qcow2','file.driver':'file',"
                   "'file':{'filename':'a'},'cache':{'direct':'on'}}"),
          "{\"driver\":\"qcow2\",\"cache\":{\"direct\":true},\"file\":{"
          "\"driver\":\"file\",\"filename\":\"a\"}}");
    check(filename("json:{\"driver\":\"null-co\",\"size\":\"512\"}"),
          "{\"driver\":\"null-co\",\"size\":512}");
    check(filename("json:{\"driver\":\"qcow2\",\"file\":\"a\","
                   "\"file.driver\":\"null-co\"}"),
          "!Parameters 'file.*' used inconsistently");
}

static void children_may_be_file_names(void **state)
{
    check(blockdev("json:{'driver':'raw','file.filename':'x'}"),
          "{\"driver\":\"raw\",\"file\":{\"driver\":\"file\","
          "\"filename\":\"x\"}}");
    check(blockdev("json:{'driver':'raw','file':{'filename':'null-co://'}}"),
          "{\"driver\":\"raw\",\"file\":{\"driver\":\"null-co\"}}");
    check(blockdev("json:{'driver':'raw','file.filename':'word:x'}"),
          "!Unknown protocol 'word'");
    check(blockdev("raw,file.filename=x"),
          "!Parameter 'file.driver' is missing");
}

static void malformed_json_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "{",
        "[1]",
        "3",
        "null",
        "{} {}",
        "{}x",
        "{\"driver\":\"null-co\"",
        "{\"driver\":null-co}",
        "{\"driver\":\"null-co\",\"driver\":\"file\"}",
        "{\"driver\":\"null-co\",\"dri\\u0076er\":\"file\"}",
        "{\"driver\":\"null-co\",\"size\":18446744073709551616}",
        "{\"driver\":\"null-co\",\"size\":-9223372036854775809}",
        "{\"driver\":\"null-co\" /* size */}",
        "{\"driver\":\"\xff\"}",
    };
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *name = g_strconcat("json:", bad[i], NULL);
        g_autofree char *got = filename(name);
        if (got[0] != '!') {
            fail_msg("accepted %s as %s", bad[i], got);
        }
    }
    check(filename("json:{\"driver\":\"null-co\",\"driver\":\"file\"}"),
          "!Could not parse the JSON options: "
          "JSON parse error, duplicate key");
}

static void json_nesting_has_a_limit(void **state)
{
    GString *text = g_string_new("json:");
    for (int i = 0; i < 100000; i++) {
        g_string_append(text, "{\"a\":");
    }
    g_autofree char *got = filename(text->str);
    assert_true(g_str_has_prefix(got, "!Could not parse the JSON options"));
    g_string_free(text, TRUE);
}

static void json_text_needs_no_terminator(void **state)
{
    char *text = g_memdup2("{\"a\":1}", 7);
    g_autoptr(GError) error = NULL;
    struct json_object *json = qapi_json_parse(text, 7, &error);
    assert_non_null(json);
    json_object_put(json);
    g_free(text);
}

static void plain_names_are_files(void **state)
{
    check(filename("a.img"), "{\"driver\":\"file\",\"filename\":\"a.img\"}");
    check(filename("file:a:b"), "{\"driver\":\"file\",\"filename\":\"a:b\"}");
    check(filename("./a:b"), "{\"driver\":\"file\",\"filename\":\"./a:b\"}");
    check(filename("/x/a:b"), "{\"driver\":\"file\",\"filename\":\"/x/a:b\"}");
}

static void protocols_are_known_or_refused_by_name(void **state)
{
    check(filename("null-co://"), "{\"driver\":\"null-co\"}");
    check(filename("nosuch://host/x"), "!Unknown protocol 'nosuch'");
    check(filename("foo:bar"), "!Unknown protocol 'foo'");
    check(filename("blkdebug::a.img"),
          "{\"driver\":\"blkdebug\",\"image\":{\"driver\":\"file\","
          "\"filename\":\"a.img\"}}");
    check(filename("blkdebug:rules:foo:bar"), "!Unknown protocol 'foo'");
    check(filename("blkdebug:rules"),
          "!blkdebug requires both config file and image path");
    assert_true(qapi_filename_has_protocol("json:{}"));
    assert_false(qapi_filename_has_protocol("./json:{}"));
    assert_false(qapi_filename_has_protocol(""));
}

static void options_survive_the_way_to_a_name_and_back(void **state)
{
    g_autoptr(GError) error = NULL;
    qapi_auto(blockdev_options) options = qapi_blockdev_options_parse(
        "qcow2,backing.driver=raw,backing.file=x,file.driver=file,"
        "file.filename=a/\"b\",overlap-check.template=all,discard=unmap",
        &error);
    assert_null(error);
    g_autofree char *name = qapi_blockdev_options_to_filename(options);
    assert_true(g_str_has_prefix(name, "json:{"));
    qapi_auto(blockdev_options) back =
        qapi_blockdev_from_filename(name, &error);
    assert_null(error);
    g_autofree char *again = qapi_blockdev_options_to_filename(back);
    assert_string_equal(name, again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dotted_keys_make_a_tree),
        cmocka_unit_test(driver_is_the_implied_key),
        cmocka_unit_test(reference_stays_a_string),
        cmocka_unit_test(indexes_make_lists),
        cmocka_unit_test(list_with_a_gap_is_refused),
        cmocka_unit_test(typed_scalars_are_checked),
        cmocka_unit_test(sizes_take_suffixes),
        cmocka_unit_test(empty_backing_means_none),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(unknown_and_missing_keys_are_named),
        cmocka_unit_test(deep_dotted_keys_are_refused),
        cmocka_unit_test(nested_nodes_have_a_limit),
        cmocka_unit_test(json_text_is_strictly_typed),
        cmocka_unit_test(json_file_names_may_be_flat_and_untyped),
        cmocka_unit_test(children_may_be_file_names),
        cmocka_unit_test(malformed_json_is_refused),
        cmocka_unit_test(json_nesting_has_a_limit),
        cmocka_unit_test(json_text_needs_no_terminator),
        cmocka_unit_test(plain_names_are_files),
        cmocka_unit_test(protocols_are_known_or_refused_by_name),
        cmocka_unit_test(options_survive_the_way_to_a_name_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
