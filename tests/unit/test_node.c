/* Nodes: names, references and end, chains, what they say of themselves. */
#include "block/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "block/dirty_bitmap.h"
#include "block/node_int.h"
#include "block/request.h"
#include "lib/fake_driver.h"

static void assert_error(GError **error, const char *expected)
{
    assert_non_null(*error);
    assert_string_equal((*error)->message, expected);
    g_clear_error(error);
}

static void refuse_name(const struct block_driver *driver, const char *name,
                        const char *expected)
{
    GError *error = NULL;
    assert_null(node_new(driver, name, &error));
    assert_error(&error, expected);
}

static void co_names_are_checked(void *opaque)
{
    struct node *f = co_fake_node("f", 4096);
    struct backend *b = co_backend_new("drive0", f, 0, PERM_ALL, NULL);
    const struct block_driver *d = f->driver;
    refuse_name(d, "f", "Duplicate nodes with node-name='f'");
    refuse_name(d, "9f", "Invalid node-name: '9f'");
    refuse_name(d, "", "Invalid node-name: ''");
    refuse_name(d, "a b", "Invalid node-name: 'a b'");
    refuse_name(d, "#block1", "Invalid node-name: '#block1'");
    refuse_name(d, "drive0",
                "node-name=drive0 is conflicting with a device id");
    refuse_name(d, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "Node name too long");
    struct node *longest = node_new(d, "a.-_0aaaaaaaaaaaaaaaaaaaaaaaaaa", NULL);
    assert_non_null(longest);
    assert_int_equal(strlen(longest->name), BLOCK_NODE_NAME_MAX);
    co_node_discard(longest);
    struct node *made = node_new(d, NULL, NULL),
                *next = node_new(d, NULL, NULL);
    assert_true(g_str_has_prefix(made->name, "#block"));
    assert_string_not_equal(made->name, next->name);
    co_node_discard(made);
    co_node_discard(next);
    co_backend_unref(b);
    co_node_unref(f);
}

static void co_lookup(void *opaque)
{
    GError *error = NULL;
    struct node *f = co_fake_node("f", 4096);
    assert_ptr_equal(node_lookup(NULL, "f", NULL), f);
    assert_ptr_equal(node_lookup("f", "f", NULL), f);
    assert_null(node_lookup("f", NULL, &error));
    assert_error(&error, "Cannot find device='f' nor node-name=''");
    assert_null(node_lookup(NULL, "x", &error));
    assert_error(&error, "Cannot find device='' nor node-name='x'");
    assert_null(node_find("x", &error));
    assert_error(&error, "Failed to find node with node-name='x'");
    /* A node that is still being opened has its name, but nobody finds it. */
    struct node *half = node_new(f->driver, "half", NULL);
    assert_null(node_find("half", NULL));
    refuse_name(f->driver, "half", "Duplicate nodes with node-name='half'");
    co_node_discard(half);
    co_node_unref(f);
}

static void co_last_reference_flushes_and_closes(void *opaque)
{
    char buf[512] = {0};
    struct node *f = co_fake_node("f", 4096);
    struct node *top = co_fake_above("top", DRIVER_FORMAT, f);
    dirty_bitmap_new(top, "b0", 65536, NULL);
    assert_int_equal(co_node_pwrite(top, 0, buf, sizeof(buf), 0), 0);
    node_ref(top);
    co_node_unref(top);
    assert_int_equal(fake_of(top)->calls[FAKE_FLUSH], 0);
    fake_log_forget();
    co_node_unref(f);
    co_node_unref(top);
    fake_log_is("top:flush f:flush top:close f:perm-prepare f:perm-commit "
                "f:close");
}

static void co_long_chain_ends_without_recursion(void *opaque)
{
    struct node *node = co_fake_node("base", 4096);
    for (int i = 0; i < 2000; i++) {
        g_autofree char *name = g_strdup_printf("n%d", i);
        struct node *above = co_fake_above(name, DRIVER_FILTER, node);
        co_node_unref(node);
        node = above;
    }
    co_node_unref(node);
    assert_null(node_find("base", NULL));
}

static void co_chains(void *opaque)
{
    struct node *f0 = co_fake_node("f0", 4096), *f1 = co_fake_node("f1", 4096);
    struct node *base = co_fake_above("base", DRIVER_FORMAT, f0);
    struct node *filter = co_fake_above("filter", DRIVER_FILTER, base);
    struct node *top = co_fake_above("top", DRIVER_FORMAT, f1);
    co_fake_set_backing(top, filter);
    struct node *above = co_fake_above("above", DRIVER_FILTER, top);
    assert_true(node_is_filter(above));
    assert_false(node_is_filter(top));
    assert_ptr_equal(node_skip_filters(above), top);
    assert_ptr_equal(node_skip_filters(top), top);
    assert_ptr_equal(node_backing_chain_next(above), filter);
    assert_null(node_backing_chain_next(filter));
    assert_null(node_backing_chain_next(f1));
    assert_true(node_chain_contains(above, above));
    assert_true(node_chain_contains(above, base));
    assert_true(node_chain_contains(above, filter));
    assert_false(node_chain_contains(above, f0));
    assert_false(node_chain_contains(base, top));
    struct node_info info;
    assert_int_equal(co_node_get_info(f0, &info), -ENOTSUP);
    assert_int_equal(co_node_allocated_size(above), -ENOTSUP);
    struct node *all[] = {above, top, filter, base, f1, f0};
    for (int i = 0; i < 6; i++) {
        co_node_unref(all[i]);
    }
}

#define NODE_TEST(name)            \
    static void name(void **state) \
    {                              \
        in_fake_loop(co_##name);   \
    }
NODE_TEST(names_are_checked)
NODE_TEST(lookup)
NODE_TEST(last_reference_flushes_and_closes)
NODE_TEST(long_chain_ends_without_recursion)
NODE_TEST(chains)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(lookup),
        cmocka_unit_test(last_reference_flushes_and_closes),
        cmocka_unit_test(long_chain_ends_without_recursion),
        cmocka_unit_test(chains),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
