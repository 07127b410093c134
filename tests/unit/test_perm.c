/* Permissions: the rules of the roles, conflicts, and the drivers' part. */
#include "block/graph.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <glib.h>

#include "block/graph_int.h"
#include "lib/fake_driver.h"

#define RW     (PERM_CONSISTENT_READ | PERM_WRITE)
#define NO_W   ((unsigned)(PERM_ALL & ~(PERM_WRITE | PERM_RESIZE)))
#define NO_RSZ ((unsigned)(PERM_ALL & ~PERM_RESIZE))

static void assert_error(GError **error, const char *expected)
{
    assert_non_null(*error);
    assert_string_equal((*error)->message, expected);
    g_clear_error(error);
}

static struct node *co_child_in_role(struct node *child, unsigned roles,
                                     bool read_only)
{
    struct node *top = co_fake_node("top", 4096);
    top->read_only = read_only;
    struct graph_tx *tx = graph_tx_begin();
    assert_non_null(graph_tx_attach(tx, top, child, "child", roles, NULL));
    assert_true(co_graph_tx_commit(tx, NULL));
    return top;
}

static void co_roles_decide(void *opaque)
{
    static const struct {
        unsigned roles;
        bool read_only;
        unsigned parent_perm, parent_shared;
        unsigned perm, shared;
    } rows[] = {
        /* A filter passes on. */
        {ROLE_FILTERED, false, RW, PERM_CONSISTENT_READ, RW,
         PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED},
        {ROLE_FILTERED, false, 0, PERM_ALL, 0, PERM_ALL},
        /* Data is written if the parents write, and its length is relied on. */
        {ROLE_DATA, false, PERM_CONSISTENT_READ, PERM_ALL, PERM_CONSISTENT_READ,
         NO_RSZ},
        {ROLE_DATA, false, RW, PERM_ALL, RW | PERM_RESIZE, NO_RSZ},
        {ROLE_DATA, false, PERM_WRITE_UNCHANGED, PERM_ALL,
         PERM_WRITE_UNCHANGED | PERM_WRITE | PERM_RESIZE, NO_RSZ},
        /* Metadata is read always, and written whenever the node can be. */
        {ROLE_METADATA, false, 0, PERM_ALL, RW | PERM_RESIZE, NO_W},
        {ROLE_METADATA, true, 0, PERM_ALL, PERM_CONSISTENT_READ, NO_W},
        /* A backing file is only read. */
        {ROLE_COW, false, RW, PERM_ALL, PERM_CONSISTENT_READ, PERM_ALL},
        {ROLE_COW, false, RW, PERM_CONSISTENT_READ, PERM_CONSISTENT_READ,
         PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED},
        {ROLE_COW, false, 0, PERM_ALL, 0, PERM_ALL},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        struct node *f = co_fake_node("f", 4096);
        struct node *top =
            co_child_in_role(f, rows[i].roles, rows[i].read_only);
        unsigned parent_perm = rows[i].parent_perm;
        top->read_only = rows[i].read_only;
        struct backend *b =
            co_backend_new(NULL, top, parent_perm, rows[i].parent_shared, NULL);
        assert_non_null(b);
        assert_int_equal(f->perm, rows[i].perm);
        assert_int_equal(f->shared, rows[i].shared);
        assert_int_equal(fake_of(f)->wanted, f->perm);
        co_backend_unref(b);
        co_node_unref(top);
        assert_int_equal(f->perm, 0);
        assert_int_equal(f->shared, PERM_ALL);
        co_node_unref(f);
    }
}

static void co_conflict_names_both_users(void *opaque)
{
    GError *error = NULL;
    struct node *f = co_fake_node("f", 4096);
    struct node *fmt = co_fake_above("fmt", DRIVER_FORMAT, f);
    assert_null(co_backend_new(NULL, f, RW, PERM_ALL, &error));
    assert_error(&error,
                 "Permission conflict on node 'f': permissions 'write' are "
                 "both required by an unnamed block device (uses node 'f' as "
                 "'root' child) and unshared by node 'fmt' (uses node 'f' as "
                 "'file' child).");
    assert_null(co_backend_new("drive0", f, 0, PERM_CONSISTENT_READ, &error));
    assert_error(&error,
                 "Permission conflict on node 'f': permissions 'write, resize' "
                 "are both required by node 'fmt' (uses node 'f' as 'file' "
                 "child) and unshared by block device 'drive0' (uses node 'f' "
                 "as 'root' child).");
    assert_null(backend_find("drive0", NULL));
    co_node_unref(fmt);
    co_node_unref(f);
}

static void co_two_writers_need_both_to_share(void *opaque)
{
    GError *error = NULL;
    struct node *f = co_fake_node("f", 4096);
    struct backend *a = co_backend_new("a", f, RW, PERM_ALL, NULL);
    struct backend *b = co_backend_new("b", f, RW, PERM_ALL, NULL);
    assert_non_null(b);
    assert_false(co_backend_set_perm(b, RW, PERM_CONSISTENT_READ, &error));
    assert_error(&error,
                 "Permission conflict on node 'f': permissions 'write' are "
                 "both required by block device 'a' (uses node 'f' as 'root' "
                 "child) and unshared by block device 'b' (uses node 'f' as "
                 "'root' child).");
    assert_int_equal(f->shared, PERM_ALL);
    assert_int_equal(b->root->shared, PERM_ALL);
    assert_true(co_backend_set_perm(a, PERM_CONSISTENT_READ, PERM_ALL, NULL));
    assert_true(a->read_only);
    assert_true(co_backend_set_perm(b, RW, PERM_CONSISTENT_READ, &error));
    co_backend_unref(a);
    co_backend_unref(b);
    co_node_unref(f);
}

static void co_conflict_deep_below_is_found(void *opaque)
{
    GError *error = NULL;
    struct node *f = co_fake_node("f", 4096);
    struct node *x = co_fake_above("x", DRIVER_FILTER, f);
    struct node *y = co_fake_above("y", DRIVER_FILTER, f);
    struct backend *a =
        co_backend_new("a", x, PERM_CONSISTENT_READ, NO_W, NULL);
    unsigned perm = f->perm, shared = f->shared;
    assert_null(co_backend_new("b", y, RW, PERM_ALL, &error));
    assert_error(&error,
                 "Permission conflict on node 'f': permissions 'write' are "
                 "both required by node 'y' (uses node 'f' as 'file' child) "
                 "and unshared by node 'x' (uses node 'f' as 'file' child).");
    assert_int_equal(f->perm, perm);
    assert_int_equal(f->shared, shared);
    assert_int_equal(y->file->perm, 0);
    co_backend_unref(a);
    struct backend *b = co_backend_new("b", y, RW, PERM_ALL, &error);
    assert_non_null(b);
    assert_true(f->perm & PERM_WRITE);
    co_backend_unref(b);
    co_node_unref(x);
    co_node_unref(y);
    co_node_unref(f);
}

static void co_read_only_node_refuses_writers(void *opaque)
{
    GError *error = NULL;
    struct node *f = co_fake_node("f", 4096);
    f->read_only = true;
    assert_null(co_backend_new("b", f, RW, PERM_ALL, &error));
    assert_error(&error, "Block node is read-only");
    struct backend *b =
        co_backend_new("b", f, PERM_CONSISTENT_READ, PERM_ALL, &error);
    assert_non_null(b);
    co_backend_unref(b);
    co_node_unref(f);
}

/* A detach gives permissions back even if a driver will not follow. */
static void co_detach_cannot_fail(void *opaque)
{
    struct node *f = co_fake_node("f", 4096);
    struct backend *b = co_backend_new("b", f, RW, PERM_ALL, NULL);
    fake_of(f)->fail_at[FAKE_PERM_PREPARE] = 1;
    g_log_set_always_fatal(G_LOG_LEVEL_ERROR);
    co_backend_unref(b);
    assert_true(LIST_EMPTY(&f->parents));
    co_node_unref(f);
}

static void names_list_what_is_set(void **state)
{
    g_autofree char *all = perm_names(PERM_ALL), *none = perm_names(0);
    assert_string_equal(all, "consistent read, write, write unchanged, resize");
    assert_string_equal(none, "");
}

#define PERM_TEST(name)            \
    static void name(void **state) \
    {                              \
        in_fake_loop(co_##name);   \
    }
PERM_TEST(roles_decide)
PERM_TEST(conflict_names_both_users)
PERM_TEST(two_writers_need_both_to_share)
PERM_TEST(conflict_deep_below_is_found)
PERM_TEST(read_only_node_refuses_writers)
PERM_TEST(detach_cannot_fail)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(roles_decide),
        cmocka_unit_test(conflict_names_both_users),
        cmocka_unit_test(two_writers_need_both_to_share),
        cmocka_unit_test(conflict_deep_below_is_found),
        cmocka_unit_test(read_only_node_refuses_writers),
        cmocka_unit_test(detach_cannot_fail),
        cmocka_unit_test(names_list_what_is_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
