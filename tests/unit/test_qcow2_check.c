/*
 * qcow2: what a check and a repair say of a damaged image, and what a change of
 * one does, where the programs do not show it; test_qcow2_check.py has the
 * rest.
 */
#include "block/check_report.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <glib.h>

#include "block/driver.h"
#include "block/snapshot.h"
#include "lib/fake_driver.h"
#include "lib/qcow2_image.h"

static struct node *co_image_with_data(const char *more)
{
    struct node *file = co_mem_disk("disk");
    uint8_t buf[512] = {1};

    co_make("disk", 1 << 20, more);
    struct node *node = co_open("driver=qcow2,file=disk");
    assert_int_equal(co_node_pwrite(node, 0, buf, sizeof(buf), 0), 0);
    co_node_unref(node);
    return file;
}

static int co_take_snapshot(void)
{
    struct node *node = co_open("driver=qcow2,file=disk");
    struct snapshot_info info = {.name = (char *)"one"};

    int ret = co_node_snapshot_create(node, &info);
    co_node_unref(node);
    return ret;
}

static void hear(struct check_report *check, enum check_report_kind kind,
                 bool fixed, const char *message)
{
}

static bool co_check_disk(struct check_report *r, bool repair, GError **error)
{
    const struct open_defaults defaults = {.check = true, .read_only = !repair};
    struct node *node = co_node_open_filename(
        "json:{'driver': 'qcow2', 'file': 'disk'}", NULL, &defaults, error);

    assert_non_null(node);
    *r = (struct check_report){
        .found = hear, .fix_leaks = repair, .fix_errors = repair};
    bool ok = node->driver->co_check(node, r, error);
    co_node_unref(node);
    return ok;
}

/* ---- a table of snapshots that cannot be written ------------------------- */

/* Nothing is built on refcounts that stay wrong, so that what is wrong with the
 * table of snapshots stays, too. */
static void co_salvage_in_vain(void *opaque)
{
    struct node *file = co_image_with_data("'cluster-size': 4096");
    struct check_report r;
    GError *error = NULL;

    assert_int_equal(co_take_snapshot(), 0);
    put_be(file, get_be(file, 64, 8) + 36, 4, 1025); /* extra data */
    int64_t l2 = get_be(file, get_be(file, 40, 8), 8) & 0xfffffffffffe00;
    put_be(file, l2, 8, get_be(file, l2, 8) | 2); /* a reserved bit */
    assert_true(co_check_disk(&r, true, NULL));
    assert_true(r.errors > 1);
    assert_int_equal(r.errors_fixed, 0);
    assert_false(co_check_disk(&r, false, &error));
    assert_non_null(strstr(error->message, "snapshot table"));
    g_error_free(error);
    co_node_unref(file);
}

static void a_snapshot_table_that_is_not_rewritten_is_not_repaired(void **state)
{
    in_fake_loop(co_salvage_in_vain);
}

/* ---- refcount blocks ----------------------------------------------------- */

/* A snapshot copies them all, also one that nothing has looked up. */
static void co_snapshot_with_bad_block(void *opaque)
{
    const uint64_t nowhere[] = {0x10200, 1 << 30, UINT64_MAX << 16};

    for (unsigned i = 0; i < G_N_ELEMENTS(nowhere); i++) {
        struct node *file = co_image_with_data("'cluster-size': 65536");
        put_be(file, get_be(file, 48, 8) + 8, 8, nowhere[i]);
        assert_int_equal(co_take_snapshot(), -EIO);
        assert_int_equal(get_be(file, 72, 8), 2);
        co_node_unref(file);
    }
}

static void a_snapshot_finds_refcount_blocks_at_impossible_places(void **state)
{
    in_fake_loop(co_snapshot_with_bad_block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            a_snapshot_table_that_is_not_rewritten_is_not_repaired),
        cmocka_unit_test(a_snapshot_finds_refcount_blocks_at_impossible_places),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
