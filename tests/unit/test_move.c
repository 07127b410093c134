/*
 * What is connected moves from loop to loop: nodes, backends, bitmaps, drained
 * sections; who makes it stay, and that then nothing has changed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "aio/iothread.h"
#include "aio/loop.h"
#include "aio/mailbox.h"
#include "block/dirty_bitmap.h"
#include "block/place.h"
#include "lib/backup_disk.h"
#include "lib/fake_driver.h"

#define MIB (1 << 20)

static struct iothread *thread;
static struct loop *home, *away;

/* ---- helpers ---- */

static bool co_move(struct node *node, struct loop *to, GError **error)
{
    co_graph_lock(GRAPH_LOCK_CHANGE);
    bool ok = co_node_move(node, to, error);
    graph_unlock(GRAPH_LOCK_CHANGE);
    return ok;
}

static void co_stays(struct node *node, const char *why)
{
    g_autoptr(GError) error = NULL;

    assert_false(co_move(node, away, &error));
    assert_string_equal(error->message, why);
    assert_ptr_equal(node->loop, home);
    assert_ptr_equal(node_find(node->name, NULL), node);
    assert_int_equal(node->drained, 0);
}

static struct backend *co_drive(const char *name, struct node *node)
{
    struct backend *b = co_backend_new(
        name, node, PERM_CONSISTENT_READ | PERM_WRITE, PERM_ALL, NULL);

    assert_non_null(b);
    return b;
}

static int co_write(struct backend *b, int64_t offset, int value)
{
    uint8_t buf[512];
    struct iovec vec;
    struct iov iov = iov_buf(&vec, buf, sizeof(buf));

    memset(buf, value, sizeof(buf));
    return co_backend_pwritev(b, offset, &iov, 0);
}

static void run(co_fn *co_test)
{
    thread = iothread_new("away");
    away = iothread_loop(thread);
    in_fake_loop(co_test);
    graph_set_home(NULL);
    iothread_free(thread);
}

static void begin(void)
{
    home = loop_current();
    graph_set_home(home);
}

/* ---- what goes along ---- */

struct chain {
    struct node *file, *base, *format, *top;
    struct backend *drive;
    struct dirty_bitmap *bitmap;
};

static void co_look_around(void *opaque)
{
    struct chain *c = opaque;
    struct node *node;
    unsigned n = 0;

    assert_ptr_equal(loop_current(), away);
    assert_ptr_equal(node_find("file", NULL), c->file);
    assert_ptr_equal(node_find("top", NULL), c->top);
    assert_ptr_equal(backend_find("drive0", NULL), c->drive);
    assert_ptr_equal(dirty_bitmap_find(c->format, "b"), c->bitmap);
    TAILQ_FOREACH (node, &graph_current()->nodes, link) {
        assert_ptr_equal(node->graph, graph_current());
        assert_int_equal(node->drained, 0);
        n++;
    }
    assert_int_equal(n, 4);
    assert_int_equal(co_write(c->drive, 4096, 7), 0);
    assert_int_equal(fake_of(c->file)->data[4096], 7);
    assert_int_equal(dirty_bitmap_count(c->bitmap), 65536);
    assert_int_equal(co_backend_flush(c->drive), 0);
}

static void co_move_home(void *opaque)
{
    assert_true(co_move(opaque, home, NULL));
}

static void co_all_together(void *opaque)
{
    struct chain c;
    struct node *node;
    uint64_t last = 0;

    begin();
    struct node *other = co_fake_node("other", MIB);
    c.file = co_fake_node("file", MIB);
    c.base = co_fake_node("base", MIB);
    c.format = co_fake_above("format", DRIVER_FORMAT, c.file);
    co_fake_set_backing(c.format, c.base);
    c.top = co_fake_above("top", DRIVER_FILTER, c.format);
    c.drive = co_drive("drive0", c.top);
    c.bitmap = dirty_bitmap_new(c.format, "b", 65536, NULL);
    struct node *young = co_fake_node("young", MIB);

    /* From the middle as well as from an end. */
    assert_true(co_move(c.base, away, NULL));
    assert_null(node_find("file", NULL));
    assert_null(backend_find("drive0", NULL));
    assert_ptr_equal(other->loop, home);
    co_call_on(away, co_look_around, &c);
    co_call_on(away, co_move_home, c.file);
    assert_ptr_equal(node_find("top", NULL), c.top);
    assert_int_equal(co_write(c.drive, 8192, 9), 0);
    TAILQ_FOREACH (node, &graph_current()->nodes, link) {
        assert_true(node->serial > last);
        last = node->serial;
    }
    dirty_bitmap_free(c.bitmap);
    co_backend_unref(c.drive);
    co_node_unref(c.top);
    co_node_unref(c.format);
    co_node_unref(c.base);
    co_node_unref(c.file);
    co_node_unref(other);
    co_node_unref(young);
}

static void all_that_is_connected_goes_together(void **state)
{
    run(co_all_together);
}

/* ---- requests ---- */

struct mover {
    struct node *node;
    bool ok, done;
};

static void co_mover(void *opaque)
{
    struct mover *m = opaque;

    m->ok = co_move(m->node, away, NULL);
    m->done = true;
}

static void co_in_flight(void *opaque)
{
    begin();
    struct node *f = co_fake_node("f", MIB);
    struct backend *b = co_drive("drive0", f);
    struct fake_call call = {.backend = b, .is_write = true, .bytes = 512};
    struct mover m = {.node = f};

    fake_of(f)->hold[FAKE_WRITE] = true;
    fake_start(&call);
    co_start(co_mover, &m);
    co_settle();
    assert_false(m.done);
    assert_int_equal(call.ret, 1);
    fake_release(f);
    while (!m.done) {
        co_pause();
    }
    assert_true(m.ok);
    assert_int_equal(call.ret, 0);
    co_call_on(away, co_move_home, f);
    co_backend_unref(b);
    co_node_unref(f);
}

static void requests_in_flight_are_waited_for(void **state)
{
    run(co_in_flight);
}

static void co_waiting(void *opaque)
{
    begin();
    struct node *f = co_fake_node("f", MIB);
    struct backend *b = co_drive("drive0", f);
    struct fake_call call = {.backend = b, .is_write = true, .bytes = 512};
    g_autoptr(GError) error = NULL;

    co_drain_begin(f);
    fake_start(&call);
    co_settle();
    assert_false(co_move(f, away, &error));
    assert_string_equal(error->message, "Node 'f' has requests that wait");
    assert_ptr_equal(f->loop, home);
    assert_int_equal(f->drained, 1);
    assert_int_equal(call.ret, 1);
    co_drain_end(f);
    co_settle();
    assert_int_equal(call.ret, 0);
    co_backend_unref(b);
    co_node_unref(f);
}

static void a_request_that_waits_keeps_its_disk(void **state)
{
    run(co_waiting);
}

static void co_end_section(void *opaque)
{
    struct backend *b = opaque;
    struct node *f = b->node;
    struct fake_call call = {.backend = b, .is_write = true, .bytes = 512};

    assert_int_equal(f->drained, 1);
    fake_start(&call);
    co_pause();
    assert_int_equal(call.ret, 1);
    co_drain_end(f);
    co_settle();
    assert_int_equal(call.ret, 0);
    assert_int_equal(graph_current()->drain_sections, 0);
    assert_true(co_move(f, home, NULL));
}

static void co_section(void *opaque)
{
    begin();
    struct node *f = co_fake_node("f", MIB);
    struct backend *b = co_drive("drive0", f);

    co_drain_begin(f);
    assert_true(co_move(f, away, NULL));
    assert_int_equal(graph_current()->drain_sections, 0);
    co_call_on(away, co_end_section, b);
    co_backend_unref(b);
    co_node_unref(f);
}

static void an_open_section_goes_along(void **state)
{
    run(co_section);
}

/* ---- who stays ---- */

static void co_unnamed(void *opaque)
{
    begin();
    struct node *f = co_fake_node("f", MIB);
    struct backend *named = co_drive("drive0", f);
    struct backend *b = co_drive(NULL, f);

    co_stays(f, "Cannot change iothread of active block backend");
    assert_int_equal(co_write(named, 0, 1), 0);
    b->may_move = true;
    assert_true(co_move(f, away, NULL));
    co_call_on(away, co_move_home, f);
    co_backend_unref(b);
    co_backend_unref(named);
    co_node_unref(f);
}

static void a_backend_of_somebody_stays_unless_he_allows_it(void **state)
{
    run(co_unnamed);
}

static void co_job(void *opaque)
{
    struct disk d;

    begin();
    co_disk_open(&d, "drive0", "source", "target");
    struct backup_params p = params_of(&d);
    p.job_id = "job0";
    fake_of(d.target)->hold[FAKE_WRITE] = true;
    struct job *job = co_start_backup(&d, &p, NULL);
    assert_non_null(job);
    co_stays(d.target, "Node 'target' cannot move to another thread because of "
                       "backup job 'job0'");
    co_stays(d.source, "Node 'source' cannot move to another thread because of "
                       "backup job 'job0'");
    fake_release(d.target);
    assert_int_equal(co_until_ended(job), 0);
    assert_copied(&d);
    assert_true(co_move(d.source, away, NULL));
    co_call_on(away, co_move_home, d.source);
    co_disk_close(&d);
}

static void a_job_keeps_its_disks(void **state)
{
    run(co_job);
}

/* ---- together, and back ---- */

static bool co_join(const char *a, const char *b, struct loop **loop,
                    GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    g_ptr_array_add(names, (char *)a);
    g_ptr_array_add(names, (char *)b);
    co_graph_lock(GRAPH_LOCK_CHANGE);
    bool ok = co_places_join(names, loop, error);
    graph_unlock(GRAPH_LOCK_CHANGE);
    return ok;
}

static void co_want(void *opaque)
{
    ((struct backend *)opaque)->wants_loop = away;
}

static void co_unwant(void *opaque)
{
    ((struct backend *)opaque)->wants_loop = NULL;
    co_graph_lock(GRAPH_LOCK_CHANGE);
    co_graph_send_home();
    graph_unlock(GRAPH_LOCK_CHANGE);
}

static void co_joining(void *opaque)
{
    g_autoptr(GError) error = NULL;
    struct loop *loop;

    begin();
    struct node *f = co_fake_node("f", MIB), *g = co_fake_node("g", MIB);
    struct backend *b = co_drive("drive0", f);

    assert_true(co_join("nosuch", "f", &loop, NULL));
    assert_ptr_equal(loop, home);
    assert_true(co_move(f, away, NULL));
    co_call_on(away, co_want, b);
    /* To the one that somebody wanted to be elsewhere. */
    assert_true(co_join("g", "drive0", &loop, NULL));
    assert_ptr_equal(loop, away);
    assert_ptr_equal(g->loop, away);
    co_call_on(away, co_move_home, g);
    /* Or where one of them has to stay. */
    struct backend *pin = co_drive(NULL, g);
    assert_true(co_join("g", "f", &loop, NULL));
    assert_ptr_equal(loop, home);
    assert_true(co_move(f, away, NULL));
    b->may_move = false;
    g_free(b->name); /* somebody's who does not allow it */
    b->name = NULL;
    assert_false(co_join("g", "f", &loop, &error));
    assert_string_equal(error->message,
                        "Cannot change iothread of active block backend");
    assert_ptr_equal(f->loop, away);
    assert_ptr_equal(g->loop, home);
    b->name = g_strdup("drive0");
    co_call_on(away, co_unwant, b);
    assert_ptr_equal(f->loop, home);
    co_backend_unref(pin);
    co_backend_unref(b);
    co_node_unref(f);
    co_node_unref(g);
}

static void things_come_together_where_somebody_wants_them(void **state)
{
    run(co_joining);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_that_is_connected_goes_together),
        cmocka_unit_test(requests_in_flight_are_waited_for),
        cmocka_unit_test(a_request_that_waits_keeps_its_disk),
        cmocka_unit_test(an_open_section_goes_along),
        cmocka_unit_test(a_backend_of_somebody_stays_unless_he_allows_it),
        cmocka_unit_test(a_job_keeps_its_disks),
        cmocka_unit_test(things_come_together_where_somebody_wants_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
