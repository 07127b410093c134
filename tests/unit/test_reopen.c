/* Other options for open nodes: what a failure leaves, above all of bitmaps. */
#include "block/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "block/backend.h"
#include "block/dirty_bitmap.h"
#include "lib/fake_driver.h"
#include "lib/qcow2_image.h"
#include "qapi/options.h"

#define MIB INT64_C(1048576)

static bool co_reopen(GError **error, const char *a, const char *b)
{
    const char *texts[] = {a, b};
    struct blockdev_options *options[2];
    size_t n = b ? 2 : 1;

    for (size_t i = 0; i < n; i++) {
        options[i] = qapi_blockdev_options_parse(texts[i], NULL);
        assert_non_null(options[i]);
    }
    bool ok = co_nodes_reopen((const struct blockdev_options *const *)options,
                              n, error);
    for (size_t i = 0; i < n; i++) {
        blockdev_options_free(options[i]);
    }
    return ok;
}

static void assert_says(GError **error, const char *text)
{
    assert_non_null(*error);
    if (!strstr((*error)->message, text)) {
        fail_msg("\"%s\" is not in \"%s\"", text, (*error)->message);
    }
    g_clear_error(error);
}

#define READ_WRITE "driver=qcow2,node-name=q,file=disk"
#define READ_ONLY  READ_WRITE ",read-only=on"

/* A node "q" with the bitmap "b". */
static struct node *co_begin(struct node **file)
{
    GError *error = NULL;

    *file = co_mem_disk("disk");
    co_make("disk", 4 * MIB, "'cluster-size': 4096");
    struct node *node = co_open(READ_WRITE);
    assert_non_null(co_dirty_bitmap_add(node, "b", 65536, true, false, &error));
    return node;
}

static void co_write(struct node *node, int64_t offset)
{
    uint8_t byte = 1;

    assert_int_equal(co_node_pwrite(node, offset, &byte, 1, 0), 0);
}

/* As a second program finds it now. */
static struct dirty_bitmap *stored(struct node *seen)
{
    struct dirty_bitmap *b = dirty_bitmap_find(seen, "b");

    assert_non_null(b);
    return b;
}

static void assert_stored(struct node *file, bool valid, int64_t count)
{
    struct node *copy = co_mem_disk("copy");

    mem_disk_save(file, "now.qcow2");
    mem_disk_load(copy, "now.qcow2");
    struct node *seen = co_open("driver=qcow2,file=copy,read-only=on");
    struct dirty_bitmap *b = stored(seen);
    assert_int_equal(b->inconsistent, !valid);
    if (valid) {
        assert_int_equal(dirty_bitmap_count(b), count);
    }
    co_node_unref(seen);
    co_node_unref(copy);
}

static void co_to_and_fro(void *opaque)
{
    struct node *file, *node = co_begin(&file);

    for (int64_t i = 1; i < 5; i++) {
        co_write(node, i * 65536);
        assert_true(co_reopen(NULL, READ_ONLY, NULL));
        assert_true(node->read_only);
        assert_stored(file, true, i * 65536);
        unsigned writes = mem_disk_of(file)->writes;
        assert_true(co_reopen(NULL, READ_ONLY, NULL));
        assert_int_equal(mem_disk_of(file)->writes, writes);
        assert_true(co_reopen(NULL, READ_WRITE, NULL));
        assert_false(node->read_only);
        assert_stored(file, false, 0);
    }
    co_node_unref(node);
    assert_stored(file, true, 4 * 65536);
    co_check(file, false);
    co_node_unref(file);
}

static void bitmaps_are_stored_and_taken_up_again(void **state)
{
    in_fake_loop(co_to_and_fro);
}

/* Any one write or flush on the way to read-only fails: the node stays as it
 * was, and what is stored does not claim to follow it. */
static void co_store_fails(void *opaque)
{
    for (unsigned n = 1;; n++) {
        struct node *file, *node = co_begin(&file);
        g_autoptr(GError) error = NULL;
        co_write(node, 0);
        co_node_unref(node);
        node = co_open(READ_WRITE);
        co_write(node, 65536);
        mem_disk_of(file)->fail_at = n;
        bool ok = co_reopen(&error, READ_ONLY, NULL);
        bool failed = !mem_disk_of(file)->fail_at;
        mem_disk_of(file)->fail_at = 0;
        assert_int_equal(ok, node->read_only);
        if (ok) {
            assert_stored(file, true, 2 * 65536);
        } else {
            assert_non_null(error);
            assert_stored(file, false, 0);
            co_write(node, 3 * 65536);
            assert_true(co_reopen(NULL, READ_ONLY, NULL));
            assert_stored(file, true, 3 * 65536);
        }
        co_check(file, true);
        co_node_unref(node);
        co_node_unref(file);
        if (!failed) {
            assert_true(n > 8);
            return;
        }
    }
}

static void a_failed_store_leaves_the_node_writable(void **state)
{
    in_fake_loop(co_store_fails);
}

/* The first writes fail: nobody may write. */
static void co_mark_fails(void *opaque)
{
    struct node *file, *node = co_begin(&file);
    GError *error = NULL;

    assert_true(co_reopen(NULL, READ_ONLY, NULL));
    for (unsigned n = 1; n <= 2; n++) {
        mem_disk_of(file)->fail_at = n;
        assert_false(co_reopen(&error, READ_WRITE, NULL));
        assert_says(&error, "Could not mark the bitmaps as in use");
        assert_true(node->read_only);
        uint8_t byte = 1;
        assert_int_equal(co_node_pwrite(node, 0, &byte, 1, 0), -EPERM);
    }
    assert_true(co_reopen(NULL, READ_WRITE, NULL));
    assert_stored(file, false, 0);
    co_write(node, 0);
    co_node_unref(node);
    assert_stored(file, true, 65536);
    co_node_unref(file);
}

static void what_cannot_be_marked_stays_read_only(void **state)
{
    in_fake_loop(co_mark_fails);
}

static void co_all_or_none(void *opaque)
{
    struct node *file, *node = co_begin(&file);
    GError *error = NULL;
    struct node *zeroes = co_open("driver=null-co,node-name=n,size=1M");
    struct node *raw = co_open("driver=raw,node-name=r,file=n");

    assert_false(
        co_reopen(&error, READ_ONLY, "driver=raw,node-name=r,file=n,size=100"));
    assert_says(&error, "multiple of 512");
    assert_false(node->read_only);
    assert_int_equal(raw->length, MIB);
    assert_stored(file, false, 0);
    /* A user that writes is named after all have prepared. */
    struct backend *user =
        co_backend_new("guest", node, PERM_WRITE, PERM_ALL, &error);
    assert_false(
        co_reopen(&error, "driver=raw,node-name=r,file=n,size=512", READ_ONLY));
    assert_says(&error, "Read-only block node 'q' cannot support read-write "
                        "users");
    assert_false(node->read_only);
    assert_int_equal(raw->length, MIB);
    co_backend_unref(user);
    assert_true(
        co_reopen(&error, "driver=raw,node-name=r,file=n,size=512", READ_ONLY));
    assert_int_equal(raw->length, 512);
    assert_stored(file, true, 0);
    co_node_unref(raw);
    co_node_unref(zeroes);
    co_node_unref(node);
    co_node_unref(file);
}

static void nodes_change_together_or_not_at_all(void **state)
{
    in_fake_loop(co_all_or_none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bitmaps_are_stored_and_taken_up_again),
        cmocka_unit_test(a_failed_store_leaves_the_node_writable),
        cmocka_unit_test(what_cannot_be_marked_stays_read_only),
        cmocka_unit_test(nodes_change_together_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
