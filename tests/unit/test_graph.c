/* Edges and transactional changes. */
#include "block/graph.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <glib.h>
#include <string.h>

#include "aio/loop.h"
#include "lib/fake_driver.h"

/* "top>file,backing" and its parents, as text: edges in order. */
static char *children_of(struct node *node)
{
    GString *s = g_string_new(NULL);
    struct edge *e;
    LIST_FOREACH (e, &node->children, in_children) {
        g_string_append_printf(s, "%s%s=%s", s->len ? "," : "", e->name,
                               e->child->name);
    }
    return g_string_free(s, false);
}

static char *parents_of(struct node *node)
{
    GString *s = g_string_new(NULL);
    struct edge *e;
    LIST_FOREACH (e, &node->parents, in_parents) {
        g_string_append_printf(s, "%s%s", s->len ? "," : "",
                               e->parent ? e->parent->name : "root");
    }
    return g_string_free(s, false);
}

static void assert_children(struct node *node, const char *expected)
{
    g_autofree char *is = children_of(node);
    assert_string_equal(is, expected);
}

static void assert_parents(struct node *node, const char *expected)
{
    g_autofree char *is = parents_of(node);
    assert_string_equal(is, expected);
}

static void assert_error(GError **error, const char *expected)
{
    assert_non_null(*error);
    assert_string_equal((*error)->message, expected);
    g_clear_error(error);
}

static void co_attach_holds_a_reference(void *opaque)
{
    struct node *f = co_fake_node("f", 4096);
    struct node *top = co_fake_above("top", DRIVER_FORMAT, f);
    assert_int_equal(f->refs, 2);
    assert_ptr_equal(top->file->child, f);
    co_node_unref(f);
    assert_ptr_equal(node_find("f", NULL), f);
    fake_log_forget();
    co_node_unref(top);
    fake_log_is("top:close f:perm-prepare f:perm-commit f:close");
    assert_null(node_find("f", NULL));
}

static void co_cycle_is_refused_by_name(void *opaque)
{
    GError *error = NULL;
    struct node *f = co_fake_node("f", 4096);
    struct node *mid = co_fake_above("mid", DRIVER_FORMAT, f);
    struct node *top = co_fake_above("top", DRIVER_FORMAT, mid);
    struct graph_tx *tx = graph_tx_begin();
    assert_null(graph_tx_attach(tx, mid, top, "backing", ROLE_COW, &error));
    assert_error(&error,
                 "Making 'top' a backing child of 'mid' would create a cycle");
    assert_null(graph_tx_attach(tx, mid, mid, "backing", ROLE_COW, &error));
    assert_error(&error,
                 "Making 'mid' a backing child of 'mid' would create a cycle");
    assert_false(graph_tx_replace_child(tx, mid->file, top, &error));
    assert_error(&error,
                 "Making 'top' a file child of 'mid' would create a cycle");
    assert_null(graph_tx_attach(tx, top, f, "file", ROLE_DATA, &error));
    assert_error(&error, "Node 'top' already has a child 'file'");
    co_graph_tx_abort(tx);
    assert_children(mid, "file=f");
    assert_children(top, "file=mid");
    co_node_unref(top);
    co_node_unref(mid);
    co_node_unref(f);
}

static void co_abort_restores_order_and_references(void *opaque)
{
    struct node *a = co_fake_node("a", 4096), *b = co_fake_node("b", 4096);
    struct node *x = co_fake_above("x", DRIVER_FILTER, a);
    struct node *y = co_fake_above("y", DRIVER_FILTER, a);
    struct node *z = co_fake_above("z", DRIVER_FORMAT, a);
    co_fake_set_backing(z, b);
    struct graph_tx *tx = graph_tx_begin();
    assert_true(graph_tx_detach(tx, z->file, NULL));
    assert_null(z->file);
    assert_true(graph_tx_replace_child(tx, y->file, b, NULL));
    assert_true(graph_tx_replace_child(tx, x->file, b, NULL));
    assert_non_null(
        graph_tx_attach(tx, z, x, "file", ROLE_DATA | ROLE_PRIMARY, NULL));
    assert_true(graph_tx_detach(tx, z->backing, NULL));
    assert_children(z, "file=x");
    assert_parents(a, "");
    co_graph_tx_abort(tx);
    assert_children(z, "file=a,backing=b");
    assert_parents(a, "x,y,z");
    assert_parents(b, "z");
    assert_ptr_equal(z->file->child, a);
    assert_ptr_equal(z->backing->child, b);
    assert_int_equal(a->refs, 4);
    assert_int_equal(b->refs, 2);
    assert_int_equal(x->refs, 1);
    co_node_unref(z);
    co_node_unref(y);
    co_node_unref(x);
    co_node_unref(a);
    co_node_unref(b);
}

static void co_filter_goes_above_its_child(void *opaque)
{
    struct node *f = co_fake_node("f", 4096);
    struct node *top = co_fake_above("top", DRIVER_FORMAT, f);
    struct backend *b =
        co_backend_new("drive0", f, PERM_CONSISTENT_READ, PERM_ALL, NULL);
    struct node *filter = co_fake_above("filter", DRIVER_FILTER, f);
    struct graph_tx *tx = graph_tx_begin();
    assert_true(graph_tx_replace_node(tx, f, filter, NULL));
    assert_true(co_graph_tx_commit(tx, NULL));
    assert_parents(f, "filter");
    assert_parents(filter, "top,root");
    assert_ptr_equal(b->node, filter);
    /* and away again */
    tx = graph_tx_begin();
    assert_true(graph_tx_replace_node(tx, filter, f, NULL));
    assert_true(graph_tx_detach(tx, filter->file, NULL));
    assert_true(co_graph_tx_commit(tx, NULL));
    assert_parents(f, "top,root");
    assert_ptr_equal(b->node, f);
    co_node_unref(filter);
    co_backend_unref(b);
    co_node_unref(top);
    co_node_unref(f);
}

static void co_frozen_edges_stay(void *opaque)
{
    GError *error = NULL;
    struct node *f = co_fake_node("f", 4096), *g = co_fake_node("g", 4096);
    struct node *top = co_fake_above("top", DRIVER_FORMAT, f);
    const char *message =
        "Cannot change frozen 'file' link from node 'top' to 'f'";
    top->file->frozen = true;
    struct graph_tx *tx = graph_tx_begin();
    assert_false(graph_tx_detach(tx, top->file, &error));
    assert_error(&error, message);
    assert_false(graph_tx_replace_child(tx, top->file, g, &error));
    assert_error(&error, message);
    assert_false(graph_tx_replace_node(tx, f, g, &error));
    assert_error(&error, message);
    co_graph_tx_abort(tx);
    co_node_unref(top);
    co_node_unref(f);
    co_node_unref(g);
}

static void co_failed_commit_undoes_all(void *opaque)
{
    GError *error = NULL;
    struct node *f = co_fake_node("f", 4096), *g = co_fake_node("g", 4096);
    struct node *top = co_fake_above("top", DRIVER_FORMAT, f);
    struct backend *b =
        co_backend_new("drive0", top, PERM_CONSISTENT_READ | PERM_WRITE,
                       PERM_CONSISTENT_READ, NULL);
    unsigned perm = f->perm, shared = f->shared;
    fake_of(f)->fail_at[FAKE_PERM_PREPARE] = 1;
    fake_log_forget();
    struct graph_tx *tx = graph_tx_begin();
    assert_true(graph_tx_replace_child(tx, top->file, g, NULL));
    assert_false(co_graph_tx_commit(tx, &error));
    assert_error(&error, "f: no permission");
    fake_log_is("g:perm-prepare f:perm-prepare g:perm-abort");
    assert_ptr_equal(top->file->child, f);
    assert_int_equal(f->perm, perm);
    assert_int_equal(f->shared, shared);
    assert_int_equal(top->file->perm, perm);
    assert_int_equal(g->refs, 1);
    co_backend_unref(b);
    co_node_unref(top);
    co_node_unref(f);
    co_node_unref(g);
}

static void co_limits_follow_the_child(void *opaque)
{
    struct node *f = co_fake_node("f", 4096), *g = co_fake_node("g", 4096);
    g->limits.request_alignment = 512;
    struct node *filter = co_fake_above("filter", DRIVER_FILTER, f);
    struct node *above = co_fake_above("above", DRIVER_FILTER, filter);
    assert_int_equal(above->limits.request_alignment, 1);
    struct graph_tx *tx = graph_tx_begin();
    assert_true(graph_tx_replace_child(tx, filter->file, g, NULL));
    assert_true(co_graph_tx_commit(tx, NULL));
    assert_int_equal(above->limits.request_alignment, 512);
    co_node_unref(above);
    co_node_unref(filter);
    co_node_unref(f);
    co_node_unref(g);
}

#define GRAPH_TEST(name)           \
    static void name(void **state) \
    {                              \
        in_fake_loop(co_##name);   \
    }
GRAPH_TEST(attach_holds_a_reference)
GRAPH_TEST(cycle_is_refused_by_name)
GRAPH_TEST(abort_restores_order_and_references)
GRAPH_TEST(filter_goes_above_its_child)
GRAPH_TEST(frozen_edges_stay)
GRAPH_TEST(failed_commit_undoes_all)
GRAPH_TEST(limits_follow_the_child)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attach_holds_a_reference),
        cmocka_unit_test(cycle_is_refused_by_name),
        cmocka_unit_test(abort_restores_order_and_references),
        cmocka_unit_test(filter_goes_above_its_child),
        cmocka_unit_test(frozen_edges_stay),
        cmocka_unit_test(failed_commit_undoes_all),
        cmocka_unit_test(limits_follow_the_child),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
