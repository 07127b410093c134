/* Drained sections: who is held, who is waited for, and that the counts stay
 * right while the graph changes. */
#include "block/graph.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <glib.h>
#include <stdlib.h>

#include "aio/loop.h"
#include "block/request.h"
#include "lib/fake_driver.h"

static struct backend *co_backend(const char *name, struct node *node)
{
    GError *error = NULL;
    struct backend *b = co_backend_new(
        name, node, PERM_CONSISTENT_READ | PERM_WRITE, PERM_ALL, &error);
    if (!b) {
        fail_msg("%s", error->message);
    }
    return b;
}

struct drainer {
    struct node *node; /* NULL: all */
    bool began;
};

static void co_drain(void *opaque)
{
    struct drainer *d = opaque;
    if (d->node) {
        co_drain_begin(d->node);
    } else {
        co_drain_all_begin();
    }
    d->began = true;
}

/* ---- holding and waiting ---- */

static void co_waits_for_requests_above(void *opaque)
{
    struct node *f = co_fake_node("f", 4096);
    struct node *top = co_fake_above("top", DRIVER_FORMAT, f);
    struct backend *b = co_backend("drive0", top);
    struct fake_call before = {b, .bytes = 512}, after = {b, .bytes = 512};
    struct drainer d = {.node = f};
    fake_of(f)->hold[FAKE_READ] = true;
    fake_start(&before);
    co_settle();
    assert_int_equal(fake_of(f)->inside, 1);
    co_start(co_drain, &d);
    co_settle();
    assert_false(d.began);
    fake_start(&after);
    co_settle();
    fake_release(f);
    co_settle();
    assert_true(d.began);
    assert_int_equal(before.ret, 0);
    assert_int_equal(after.ret, 1);
    co_drain_end(f);
    co_settle();
    assert_int_equal(after.ret, 0);
    co_backend_unref(b);
    co_node_unref(top);
    co_node_unref(f);
}

static void co_sections_nest(void *opaque)
{
    struct node *f = co_fake_node("f", 4096);
    struct backend *b = co_backend("drive0", f);
    struct fake_call c = {b, .bytes = 512};
    fake_log_forget();
    co_drain_begin(f);
    co_drain_begin(f);
    co_drain_all_begin();
    fake_start(&c);
    co_settle();
    co_drain_end(f);
    co_drain_all_end();
    co_settle();
    assert_int_equal(c.ret, 1);
    fake_log_is("f:drain-begin");
    co_drain_end(f);
    co_settle();
    assert_int_equal(c.ret, 0);
    fake_log_is("f:drain-end f:read");
    co_backend_unref(b);
    co_node_unref(f);
}

static void co_others_go_on(void *opaque)
{
    struct node *f = co_fake_node("f", 4096), *g = co_fake_node("g", 4096);
    struct node *top = co_fake_above("top", DRIVER_FILTER, f);
    struct backend *over_top = co_backend("a", top), *on_f = co_backend("b", f),
                   *on_g = co_backend("c", g);
    struct fake_call calls[] = {
        {over_top, .bytes = 512}, {on_f, .bytes = 512}, {on_g, .bytes = 512}};
    /* Only what leads to top is held: f itself can still be used. */
    co_drain_begin(top);
    for (int i = 0; i < 3; i++) {
        fake_start(&calls[i]);
    }
    co_settle();
    assert_int_equal(calls[0].ret, 1);
    assert_int_equal(calls[1].ret, 0);
    assert_int_equal(calls[2].ret, 0);
    co_drain_end(top);
    co_settle();
    assert_int_equal(calls[0].ret, 0);
    co_backend_unref(over_top);
    co_backend_unref(on_f);
    co_backend_unref(on_g);
    co_node_unref(top);
    co_node_unref(f);
    co_node_unref(g);
}

static void co_read_node(void *opaque)
{
    char buf[512];
    assert_int_equal(co_node_pread(opaque, 0, buf, sizeof(buf), 0), 0);
}

static void co_waits_for_requests_without_root(void *opaque)
{
    struct node *f = co_fake_node("f", 4096);
    struct node *top = co_fake_above("top", DRIVER_FORMAT, f);
    struct drainer d = {.node = f};
    fake_of(top)->hold[FAKE_READ] = true;
    co_start(co_read_node, top);
    co_settle();
    co_start(co_drain, &d);
    co_settle();
    assert_false(d.began);
    fake_release(top);
    co_settle();
    assert_true(d.began);
    co_drain_end(f);
    co_node_unref(top);
    co_node_unref(f);
}

static void co_all_waits_for_every_root(void *opaque)
{
    struct node *f = co_fake_node("f", 4096), *g = co_fake_node("g", 4096);
    struct backend *a = co_backend("a", f), *b = co_backend("b", g);
    struct fake_call x = {a, .bytes = 512}, y = {b, .bytes = 512};
    struct drainer d = {.node = NULL};
    fake_of(f)->hold[FAKE_READ] = fake_of(g)->hold[FAKE_READ] = true;
    fake_start(&x);
    fake_start(&y);
    co_settle();
    co_start(co_drain, &d);
    co_settle();
    fake_release(f);
    co_settle();
    assert_false(d.began);
    fake_release(g);
    co_settle();
    assert_true(d.began);
    co_drain_all_end();
    co_backend_unref(a);
    co_backend_unref(b);
    co_node_unref(f);
    co_node_unref(g);
}

/* ---- while the graph changes ---- */

static void co_new_roots_and_nodes_are_drained_too(void *opaque)
{
    struct node *f = co_fake_node("f", 4096);
    struct node *top = co_fake_above("top", DRIVER_FILTER, f);
    co_drain_begin(f);
    struct backend *b = co_backend("drive0", top);
    struct node *late = co_fake_above("late", DRIVER_FILTER, top);
    assert_int_equal(late->drained, 1);
    assert_int_equal(fake_of(late)->calls[FAKE_DRAIN_BEGIN], 1);
    struct fake_call c = {b, .bytes = 512};
    fake_start(&c);
    co_settle();
    assert_int_equal(c.ret, 1);
    co_drain_end(f);
    co_settle();
    assert_int_equal(c.ret, 0);
    assert_int_equal(late->drained, 0);
    assert_int_equal(fake_of(late)->calls[FAKE_DRAIN_END], 1);
    co_drain_all_begin();
    struct backend *b2 = co_backend("drive1", f);
    struct node *alone = co_fake_node("alone", 512);
    assert_int_equal(b2->quiesced, 1);
    assert_int_equal(alone->drained, 1);
    co_drain_all_end();
    assert_int_equal(b2->quiesced, 0);
    co_node_unref(alone);
    co_backend_unref(b2);
    co_backend_unref(b);
    co_node_unref(late);
    co_node_unref(top);
    co_node_unref(f);
}

static void co_move_root(struct node *from, struct node *to)
{
    struct graph_tx *tx = graph_tx_begin();
    assert_true(graph_tx_replace_node(tx, from, to, NULL));
    assert_true(co_graph_tx_commit(tx, NULL));
}

static void co_moving_away_ends_it_for_the_root(void *opaque)
{
    struct node *f = co_fake_node("f", 4096), *g = co_fake_node("g", 4096);
    struct backend *b = co_backend("drive0", f);
    struct fake_call c = {b, .bytes = 512};
    co_drain_begin(f);
    co_drain_begin(f);
    fake_start(&c);
    co_settle();
    co_move_root(f, g);
    co_settle();
    assert_int_equal(c.ret, 0);
    assert_int_equal(fake_of(g)->calls[FAKE_READ], 1);
    co_move_root(g, f);
    fake_start(&c);
    co_settle();
    assert_int_equal(c.ret, 1);
    co_drain_end(f);
    co_drain_end(f);
    co_settle();
    assert_int_equal(c.ret, 0);
    assert_int_equal(b->quiesced, 0);
    co_backend_unref(b);
    co_node_unref(f);
    co_node_unref(g);
}

static void co_a_filter_comes_and_goes_inside_one_section(void *opaque)
{
    struct node *f = co_fake_node("f", 4096);
    struct backend *b = co_backend("drive0", f);
    struct fake_call c = {b, .bytes = 512};
    co_drain_begin(f);
    fake_start(&c);
    struct node *filter = co_fake_above("filter", DRIVER_FILTER, f);
    co_move_root(f, filter);
    co_settle();
    assert_int_equal(c.ret, 1);
    co_drain_end(f);
    co_settle();
    assert_int_equal(c.ret, 0);
    co_drain_begin(f);
    fake_start(&c);
    struct graph_tx *tx = graph_tx_begin();
    assert_true(graph_tx_replace_node(tx, filter, f, NULL));
    assert_true(graph_tx_detach(tx, filter->file, NULL));
    assert_true(co_graph_tx_commit(tx, NULL));
    co_settle();
    assert_int_equal(c.ret, 1);
    assert_int_equal(filter->drained, 0);
    co_drain_end(f);
    co_settle();
    assert_int_equal(c.ret, 0);
    co_backend_unref(b);
    co_node_unref(filter);
    co_node_unref(f);
}

static void co_a_node_on_two_ways_counts_once(void *opaque)
{
    struct node *f = co_fake_node("f", 4096);
    struct node *left = co_fake_above("left", DRIVER_FILTER, f);
    struct node *top = co_fake_above("top", DRIVER_FORMAT, left);
    struct graph_tx *tx = graph_tx_begin();
    assert_non_null(graph_tx_attach(tx, top, f, "backing", ROLE_COW, NULL));
    assert_true(co_graph_tx_commit(tx, NULL));
    co_drain_begin(f);
    assert_int_equal(top->drained, 1);
    co_drain_begin(left);
    assert_int_equal(top->drained, 2);
    assert_int_equal(f->drained, 1);
    co_drain_end(f);
    assert_int_equal(top->drained, 1);
    co_drain_end(left);
    assert_int_equal(top->drained, 0);
    co_node_unref(top);
    co_node_unref(left);
    co_node_unref(f);
}

/* Random moves and sections: the counts are those of a naive walk. */
#define NODES 6
#define ROOTS 4

static unsigned naive(struct node *node, struct node **seen, unsigned *n_seen)
{
    struct edge *e;
    for (unsigned i = 0; i < *n_seen; i++) {
        if (seen[i] == node) {
            return 0;
        }
    }
    seen[(*n_seen)++] = node;
    unsigned sum = node->drain_sections;
    LIST_FOREACH (e, &node->children, in_children) {
        sum += naive(e->child, seen, n_seen);
    }
    return sum;
}

static void co_random_changes_keep_the_counts(void *opaque)
{
    struct node *nodes[NODES];
    struct backend *roots[ROOTS];
    unsigned open[NODES] = {0};
    GRand *rand = g_rand_new_with_seed(7);
    for (int i = 0; i < NODES; i++) {
        g_autofree char *name = g_strdup_printf("n%d", i);
        nodes[i] = i < 2 ? co_fake_node(name, 4096)
                         : co_fake_above(name, DRIVER_FILTER, nodes[i % 2]);
    }
    for (int i = 0; i < ROOTS; i++) {
        roots[i] = co_backend_new(NULL, nodes[i], 0, PERM_ALL, NULL);
    }
    for (int round = 0; round < 2000; round++) {
        int n = g_rand_int_range(rand, 0, NODES);
        int r = g_rand_int_range(rand, 0, ROOTS);
        switch (g_rand_int_range(rand, 0, 4)) {
        case 0:
            co_drain_begin(nodes[n]);
            open[n]++;
            break;
        case 1:
            if (open[n]) {
                co_drain_end(nodes[n]);
                open[n]--;
            }
            break;
        case 2:
        case 3: {
            struct edge *e =
                n >= 2 && (round & 1) ? nodes[n]->file : roots[r]->root;
            struct graph_tx *tx = graph_tx_begin();
            int to = g_rand_int_range(rand, 0, NODES);
            if (!graph_tx_replace_child(tx, e, nodes[to], NULL) ||
                round % 3 == 0) {
                co_graph_tx_abort(tx);
            } else {
                co_graph_tx_commit(tx, NULL);
            }
            break;
        }
        }
        for (int i = 0; i < NODES; i++) {
            struct node *seen[NODES] = {0};
            unsigned n_seen = 0;
            assert_int_equal(nodes[i]->drained, naive(nodes[i], seen, &n_seen));
        }
        for (int i = 0; i < ROOTS; i++) {
            assert_int_equal(roots[i]->quiesced, roots[i]->node->drained > 0);
        }
    }
    for (int i = 0; i < NODES; i++) {
        while (open[i]--) {
            co_drain_end(nodes[i]);
        }
    }
    for (int i = 0; i < ROOTS; i++) {
        assert_int_equal(roots[i]->quiesced, 0);
        co_backend_unref(roots[i]);
    }
    for (int i = 0; i < NODES; i++) {
        co_node_unref(nodes[i]);
    }
    g_rand_free(rand);
}

#define DRAIN_TEST(name)           \
    static void name(void **state) \
    {                              \
        in_fake_loop(co_##name);   \
    }
DRAIN_TEST(waits_for_requests_above)
DRAIN_TEST(sections_nest)
DRAIN_TEST(others_go_on)
DRAIN_TEST(waits_for_requests_without_root)
DRAIN_TEST(all_waits_for_every_root)
DRAIN_TEST(new_roots_and_nodes_are_drained_too)
DRAIN_TEST(moving_away_ends_it_for_the_root)
DRAIN_TEST(a_filter_comes_and_goes_inside_one_section)
DRAIN_TEST(a_node_on_two_ways_counts_once)
DRAIN_TEST(random_changes_keep_the_counts)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(waits_for_requests_above),
        cmocka_unit_test(sections_nest),
        cmocka_unit_test(others_go_on),
        cmocka_unit_test(waits_for_requests_without_root),
        cmocka_unit_test(all_waits_for_every_root),
        cmocka_unit_test(new_roots_and_nodes_are_drained_too),
        cmocka_unit_test(moving_away_ends_it_for_the_root),
        cmocka_unit_test(a_filter_comes_and_goes_inside_one_section),
        cmocka_unit_test(a_node_on_two_ways_counts_once),
        cmocka_unit_test(random_changes_keep_the_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
