/* Opening nodes: options, file names, children, probing, backing chains. */
#include "block/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>

#include "block/node_int.h"
#include "block/request.h"
#include "lib/fake_driver.h"
#include "qapi/options.h"

static char *dir;

static void make_file(const char *name, int64_t length)
{
    g_autofree char *data = g_malloc0((gsize)length);
    assert_true(g_file_set_contents(name, data, length, NULL));
}

static int enter_directory(void **state)
{
    dir = g_dir_make_tmp("varve-open-XXXXXX", NULL);
    if (!dir || g_chdir(dir)) {
        return -1;
    }
    g_mkdir("sub", 0700);
    make_file("a.raw", 1 << 20);
    make_file("odd.raw", 100);
    make_file("sub/base.raw", 1 << 20);
    return 0;
}

static int leave_directory(void **state)
{
    g_unlink("a.raw");
    g_unlink("odd.raw");
    g_unlink("sub/base.raw");
    g_rmdir("sub");
    int ret = g_chdir("/");
    g_rmdir(dir);
    g_free(dir);
    return ret;
}

static void assert_error(GError **error, const char *expected)
{
    assert_non_null(*error);
    assert_string_equal((*error)->message, expected);
    g_clear_error(error);
}

static struct node *co_try_open(const char *text, GError **error)
{
    GError *parse_error = NULL;
    qapi_auto(blockdev_options) o =
        qapi_blockdev_options_parse(text, &parse_error);
    if (parse_error) {
        fail_msg("%s", parse_error->message);
    }
    return co_node_open(o, error);
}

static struct node *co_open(const char *text)
{
    GError *error = NULL;
    struct node *node = co_try_open(text, &error);
    if (error) {
        fail_msg("%s", error->message);
    }
    return node;
}

static void co_refuse(const char *text, const char *expected)
{
    GError *error = NULL;
    assert_null(co_try_open(text, &error));
    assert_error(&error, expected);
    /* Nothing is left of it: its names are free again. */
    assert_true(TAILQ_EMPTY(&graph_current()->nodes));
}

static void co_tree_of_options_opens_and_closes(void *opaque)
{
    char buf[512];
    struct node *node =
        co_open("driver=raw,node-name=r,file.driver=null-co,file.node-name=n,"
                "file.size=1048576,file.read-zeroes=on");
    assert_int_equal(node->length, 1 << 20);
    assert_ptr_equal(node_find("r", NULL), node);
    assert_string_equal(node->file->child->name, "n");
    memset(buf, 1, sizeof(buf));
    assert_int_equal(co_node_pread(node, 0, buf, sizeof(buf), 0), 0);
    assert_int_equal(buf[0] | buf[511], 0);
    assert_int_equal(node->options->driver, BLOCKDEV_DRIVER_RAW);
    co_node_unref(node);
    assert_null(node_find("n", NULL));
}

static void co_failure_leaves_nothing(void *opaque)
{
    co_refuse("driver=file,filename=nosuch,node-name=x",
              "Could not open 'nosuch': No such file or directory");
    co_refuse("driver=raw,file=nosuch,node-name=x",
              "Cannot find device='nosuch' nor node-name='nosuch'");
    /* Itself is not there yet. */
    co_refuse("driver=raw,file=x,node-name=x",
              "Cannot find device='x' nor node-name='x'");
    co_refuse("driver=raw,node-name=x,file.driver=null-co,file.node-name=x",
              "Duplicate nodes with node-name='x'");
    co_refuse("driver=null-co,node-name=x y", "Invalid node-name: 'x y'");
    co_refuse("driver=null-co,detect-zeroes=unmap",
              "setting detect-zeroes to unmap is not allowed without setting "
              "discard operation to unmap");
    co_refuse("driver=null-co,force-share=on",
              "force-share=on can only be used with read-only images");
}

static void co_children_inherit(void *opaque)
{
    struct node *top =
        co_open("driver=raw,read-only=on,auto-read-only=on,cache.direct=on,"
                "cache.no-flush=on,file.driver=null-co");
    struct node *f = top->file->child;
    assert_true(f->read_only && f->auto_read_only && f->cache_direct &&
                f->no_flush && f->discard);
    assert_false(top->discard);
    co_node_unref(top);
    top = co_open("driver=raw,read-only=on,cache.direct=on,"
                  "file.driver=null-co,file.read-only=off,"
                  "file.cache.direct=off,file.discard=ignore");
    f = top->file->child;
    assert_false(f->read_only || f->cache_direct || f->discard);
    co_node_unref(top);
}

static void co_read_only_below_refuses_writers(void *opaque)
{
    GError *error = NULL;
    struct node *top = co_open("driver=raw,file.driver=null-co,"
                               "file.read-only=on");
    assert_null(co_backend_new(NULL, top, PERM_WRITE, PERM_ALL, &error));
    assert_error(&error, "Block node is read-only");
    co_node_unref(top);
}

static void co_one_child_for_two_parents(void *opaque)
{
    struct node *f = co_open("driver=null-co,node-name=f");
    struct node *a = co_open("driver=raw,node-name=a,file=f");
    struct node *b = co_open("driver=raw,node-name=b,file=f");
    assert_ptr_equal(a->file->child, b->file->child);
    co_node_unref(f);
    co_node_unref(a);
    assert_ptr_equal(node_find("f", NULL), f);
    co_node_unref(b);
}

/* ---- raw ---- */

static void co_raw_windows(void *opaque)
{
    struct node *f = co_open("driver=null-co,node-name=f,size=1048576");
    static const struct {
        const char *options;
        int64_t length;
        const char *error;
    } rows[] = {
        {"", 1048576, NULL},
        {",size=4096", 4096, NULL},
        {",offset=1048064", 512, NULL},
        {",offset=3", 1048064, NULL},
        {",offset=1048576", 0, NULL},
        {",size=4097", 0, "Specified size is not multiple of 512"},
        {",offset=1048064,size=1024", 0,
         "The sum of offset (1048064) and size (1024) has to be smaller or "
         "equal to the  actual size of the containing file (1048576)"},
        {",offset=2048576", 0,
         "Offset (2048576) cannot be greater than size of the containing file "
         "(1048576)"},
        {",offset=9223372036854775807,size=512", 0,
         "Offset (9223372036854775807) cannot be greater than size of the "
         "containing file (1048576)"},
        {",offset=512,size=9223372036854775296", 0,
         "The sum of offset (512) and size (9223372036854775296) has to be "
         "smaller or equal to the  actual size of the containing file "
         "(1048576)"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        GError *error = NULL;
        g_autofree char *text =
            g_strconcat("driver=raw,file=f", rows[i].options, NULL);
        struct node *node = co_try_open(text, &error);
        if (rows[i].error) {
            assert_null(node);
            assert_error(&error, rows[i].error);
        } else {
            assert_non_null(node);
            assert_int_equal(node->length, rows[i].length);
            co_node_unref(node);
        }
    }
    co_node_unref(f);
}

static void co_raw_reads_and_writes_its_window(void *opaque)
{
    char in[1024], out[1024];
    struct node *f = co_fake_node("f", 8192);
    struct node *w = co_open("driver=raw,file=f,offset=1024,size=2048");
    memset(in, 0x5a, sizeof(in));
    assert_int_equal(co_node_pwrite(w, 1024, in, sizeof(in), 0), 0);
    assert_int_equal(fake_of(f)->data[2047], 0);
    assert_int_equal(fake_of(f)->data[2048], 0x5a);
    assert_int_equal(fake_of(f)->data[3071], 0x5a);
    assert_int_equal(fake_of(f)->data[3072], 0);
    assert_int_equal(co_node_pread(w, 1024, out, sizeof(out), 0), 0);
    assert_memory_equal(in, out, sizeof(in));
    assert_int_equal(co_node_pwrite_zeroes(w, 1536, 512, 0), 0);
    assert_int_equal(fake_of(f)->data[2560], 0);
    assert_int_equal(co_node_pwrite(w, 1536, in, sizeof(in), 0), -ENOSPC);
    assert_int_equal(fake_of(f)->data[3072], 0);
    GError *error = NULL;
    assert_false(co_node_truncate(w, 4096, true, PREALLOC_MODE_OFF, 0, &error));
    assert_error(&error, "Cannot resize fixed-size raw disks");
    co_node_unref(w);
    co_node_unref(f);
}

static void co_raw_grows_with_its_file(void *opaque)
{
    struct node *node = co_open("driver=raw,file.driver=file,"
                                "file.filename=odd.raw");
    assert_int_equal(node->length, 512);
    struct node_info info;
    assert_int_equal(co_node_get_info(node, &info), 0);
    struct backend *b =
        co_backend_new(NULL, node, PERM_WRITE | PERM_RESIZE, PERM_ALL, NULL);
    assert_true(co_node_truncate(node, 8192, true, PREALLOC_MODE_OFF, 0, NULL));
    assert_int_equal(node->length, 8192);
    assert_true(co_node_truncate(node, 100, true, PREALLOC_MODE_OFF, 0, NULL));
    co_backend_unref(b);
    co_node_unref(node);
}

/* ---- file names ---- */

static struct node *co_by_name(const char *filename, const char *format)
{
    GError *error = NULL;
    struct node *node = co_node_open_filename(filename, format, NULL, &error);
    if (error) {
        fail_msg("%s", error->message);
    }
    return node;
}

static void assert_is(struct node *node, const char *driver, const char *below,
                      const char *filename)
{
    assert_string_equal(node->driver->name, driver);
    if (below) {
        assert_string_equal(node->file->child->driver->name, below);
        assert_int_equal(node->file->child->refs, 1);
    } else {
        assert_null(node->file);
    }
    assert_string_equal(node->filename, filename);
}

static void co_file_names(void *opaque)
{
    struct node *n = co_by_name("a.raw", "raw");
    assert_is(n, "raw", "file", "a.raw");
    co_node_unref(n);
    n = co_by_name("a.raw", NULL);
    assert_is(n, "raw", "file", "a.raw");
    assert_int_equal(n->options->u.raw.file->kind, QAPI_KIND_OBJECT);
    co_node_unref(n);
    n = co_by_name("file:a.raw", "file");
    assert_is(n, "file", NULL, "a.raw");
    co_node_unref(n);
    n = co_by_name("json:{'driver':'file','filename':'a.raw'}", NULL);
    assert_is(n, "file", NULL, "a.raw");
    co_node_unref(n);
    n = co_by_name("json:{'driver':'raw','file.driver':'null-co'}", "raw");
    assert_is(n, "raw", "null-co", "null-co://");
    co_node_unref(n);
    n = co_by_name("null-co://", NULL);
    assert_is(n, "raw", "null-co", "null-co://");
    co_node_unref(n);
}

static void co_refuse_name(const char *filename, const char *format,
                           const char *expected)
{
    GError *error = NULL;
    assert_null(co_node_open_filename(filename, format, NULL, &error));
    assert_error(&error, expected);
    assert_true(TAILQ_EMPTY(&graph_current()->nodes));
}

static void co_bad_file_names(void *opaque)
{
    co_refuse_name("foo:bar", NULL, "Unknown protocol 'foo'");
    co_refuse_name("a.raw", "foo", "Unknown driver 'foo'");
    co_refuse_name("nosuch", NULL,
                   "Could not open 'nosuch': No such file or directory");
    co_refuse_name("a.raw", "null-co",
                   "Driver 'null-co' cannot be used for a file image");
}

static void co_defaults_reach_the_file(void *opaque)
{
    struct open_defaults d = {.read_only = true, .no_flush = true};
    struct node *n = co_node_open_filename("a.raw", NULL, &d, NULL);
    assert_true(n->read_only && n->file->child->read_only);
    assert_true(n->no_flush && n->file->child->no_flush);
    assert_false(n->cache_direct || n->discard);
    assert_true(n->file->child->discard);
    co_node_unref(n);
}

static void co_json_names(void *opaque)
{
    static const struct {
        const char *options, *name;
    } rows[] = {
        {"driver=null-co,latency-ns=5", "null-co://"},
        {"driver=null-co,size=512,latency-ns=5,read-only=on",
         "json:{\"driver\":\"null-co\",\"size\":512}"},
        {"driver=raw,file=nu,cache.direct=on,node-name=x",
         "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"null-co\","
         "\"size\":1024}}"},
        {"driver=raw,size=512,file=nu,discard=unmap",
         "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"null-co\",\"size\":"
         "1024},\"size\":512}"},
        {"driver=raw,size=512,file.driver=file,file.filename=a.raw,"
         "file.locking=off",
         "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":"
         "\"a.raw\"},\"size\":512}"},
    };
    struct node *nu = co_open("driver=null-co,node-name=nu,size=1024");
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        struct node *n = co_open(rows[i].options);
        g_autofree char *spaceless = g_strdup(n->filename);
        char *to = spaceless;
        for (const char *c = n->filename; *c; c++) {
            *to = *c;
            to += *c != ' ';
        }
        *to = '\0';
        assert_string_equal(spaceless, rows[i].name);
        /* It opens the same thing again. */
        struct node *again = co_by_name(n->filename, NULL);
        assert_int_equal(again->length, n->length);
        co_node_unref(again);
        co_node_unref(n);
    }
    co_node_unref(nu);
}

/* ---- backing ---- */

/* A format node on the file `filename` whose image names `backing`. */
static struct node *co_overlay(const char *filename, const char *backing,
                               const char *format)
{
    struct node *file = co_by_name(filename, "file");
    struct node *node = co_fake_above("top", DRIVER_FORMAT, file);
    co_node_unref(file);
    node->backing_filename = g_strdup(backing);
    node->backing_format = g_strdup(format);
    return node;
}

static void co_backing_names(void *opaque)
{
    static const struct {
        const char *own, *backing, *format, *found;
    } rows[] = {
        {"sub/base.raw", "../a.raw", "raw", "sub/../a.raw"},
        {"a.raw", "sub/base.raw", NULL, "sub/base.raw"},
        {"a.raw", "file:sub/base.raw", "raw", "sub/base.raw"},
        {"sub/base.raw",
         "json:{'driver':'raw','file.driver':'file',"
         "'file.filename':'a.raw'}",
         NULL, "a.raw"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        GError *error = NULL;
        struct node *top =
            co_overlay(rows[i].own, rows[i].backing, rows[i].format);
        if (!co_node_open_backing(top, NULL, &error)) {
            fail_msg("%s", error->message);
        }
        struct node *backing = top->backing->child;
        assert_string_equal(backing->filename, rows[i].found);
        assert_string_equal(backing->driver->name, "raw");
        assert_true(backing->read_only && backing->file->child->read_only);
        co_node_unref(top);
    }
}

static void co_backing_options(void *opaque)
{
    GError *error = NULL;
    struct blockdev_ref_or_null none = {.kind = QAPI_KIND_NULL};
    struct blockdev_ref_or_null ref = {.kind = QAPI_KIND_STRING,
                                       .u.reference = (char *)"nu"};
    struct node *nu = co_open("driver=null-co,node-name=nu");
    struct node *top = co_overlay("a.raw", "nosuch", NULL);
    assert_true(co_node_open_backing(top, &none, NULL));
    assert_null(top->backing);
    assert_false(co_node_open_backing(top, NULL, &error));
    assert_error(&error, "Could not open backing file: Could not open "
                         "'nosuch': No such file or directory");
    assert_true(co_node_open_backing(top, &ref, NULL));
    assert_ptr_equal(top->backing->child, nu);
    co_node_unref(top);
    top = co_overlay("a.raw", "", NULL);
    assert_true(co_node_open_backing(top, NULL, NULL));
    assert_null(top->backing);
    ref.u.reference = (char *)"top";
    assert_false(co_node_open_backing(top, &ref, &error));
    assert_error(&error,
                 "Making 'top' a backing child of 'top' would create a cycle");
    co_node_unref(top);
    co_node_unref(nu);
}

static void co_backing_loop_is_refused(void *opaque)
{
    GError *error = NULL;
    struct node *top = co_overlay("a.raw", "a.raw", "raw");
    assert_false(co_node_open_backing(top, NULL, &error));
    assert_error(&error, "Could not open backing file: Backing file 'a.raw' "
                         "creates an infinite loop.");
    co_node_unref(top);
}

static void co_endless_chain_is_refused(void *opaque)
{
    struct node *nodes[200];
    GError *error = NULL;
    for (int i = 0; i < 200; i++) {
        nodes[i] = co_fake_node(NULL, 512);
        nodes[i]->opened_for = i ? nodes[i - 1] : NULL;
    }
    nodes[199]->backing_filename = g_strdup("/nosuch");
    assert_false(co_node_open_backing(nodes[199], NULL, &error));
    assert_error(&error, "Could not open backing file: Backing chain is longer "
                         "than 200 images");
    nodes[198]->backing_filename = g_strdup("/nosuch");
    assert_false(co_node_open_backing(nodes[198], NULL, &error));
    assert_error(&error, "Could not open backing file: Could not open "
                         "'/nosuch': No such file or directory");
    for (int i = 0; i < 200; i++) {
        co_node_unref(nodes[i]);
    }
}

/* ---- queries ---- */

static void co_query(void *opaque)
{
    struct node *top = co_overlay("a.raw", "sub/base.raw", "raw");
    assert_true(co_node_open_backing(top, NULL, NULL));
    struct block_device_info *info = co_node_query(top, false, NULL);
    assert_string_equal(info->node_name, "top");
    assert_string_equal(info->file, "a.raw");
    assert_string_equal(info->drv, "fake");
    assert_string_equal(info->backing_file, "sub/base.raw");
    assert_int_equal(info->backing_file_depth, 1);
    assert_false(info->ro || info->has_dirty_bitmaps);
    assert_string_equal(info->image->backing_filename, "sub/base.raw");
    assert_string_equal(info->image->full_backing_filename, "sub/base.raw");
    assert_string_equal(info->image->backing_filename_format, "raw");
    assert_string_equal(info->image->backing_image->filename, "sub/base.raw");
    assert_int_equal(info->image->backing_image->virtual_size, 1 << 20);
    assert_null(info->image->backing_image->backing_image);
    block_device_info_free(info);
    info = co_node_query(top, true, NULL);
    assert_null(info->image->backing_image);
    block_device_info_free(info);
    co_node_unref(top);
}

static void drivers_are_sorted(void **state)
{
    for (size_t i = 1; block_drivers[i]; i++) {
        assert_true(strcmp(block_drivers[i - 1]->name, block_drivers[i]->name) <
                    0);
        assert_ptr_equal(block_driver_find(block_drivers[i]->name),
                         block_drivers[i]);
    }
    assert_null(block_driver_find("nosuch"));
}

#define OPEN_TEST(name)            \
    static void name(void **state) \
    {                              \
        in_fake_loop(co_##name);   \
    }
OPEN_TEST(tree_of_options_opens_and_closes)
OPEN_TEST(failure_leaves_nothing)
OPEN_TEST(children_inherit)
OPEN_TEST(read_only_below_refuses_writers)
OPEN_TEST(one_child_for_two_parents)
OPEN_TEST(raw_windows)
OPEN_TEST(raw_reads_and_writes_its_window)
OPEN_TEST(raw_grows_with_its_file)
OPEN_TEST(file_names)
OPEN_TEST(bad_file_names)
OPEN_TEST(defaults_reach_the_file)
OPEN_TEST(json_names)
OPEN_TEST(backing_names)
OPEN_TEST(backing_options)
OPEN_TEST(backing_loop_is_refused)
OPEN_TEST(endless_chain_is_refused)
OPEN_TEST(query)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tree_of_options_opens_and_closes),
        cmocka_unit_test(failure_leaves_nothing),
        cmocka_unit_test(children_inherit),
        cmocka_unit_test(read_only_below_refuses_writers),
        cmocka_unit_test(one_child_for_two_parents),
        cmocka_unit_test(raw_windows),
        cmocka_unit_test(raw_reads_and_writes_its_window),
        cmocka_unit_test(raw_grows_with_its_file),
        cmocka_unit_test(file_names),
        cmocka_unit_test(bad_file_names),
        cmocka_unit_test(defaults_reach_the_file),
        cmocka_unit_test(json_names),
        cmocka_unit_test(backing_names),
        cmocka_unit_test(backing_options),
        cmocka_unit_test(backing_loop_is_refused),
        cmocka_unit_test(endless_chain_is_refused),
        cmocka_unit_test(query),
        cmocka_unit_test(drivers_are_sorted),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
