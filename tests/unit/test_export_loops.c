/*
 * Exports on I/O threads: front-ends on threads of their own read and write,
 * and check every byte, while commands move their disks from loop to loop,
 * back them up, stop the machine, and add and remove exports beside them.
 */
#include <glib/gstdio.h>
#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "aio/iothread.h"
#include "aio/loop.h"
#include "aio/mailbox.h"
#include "aio/timer.h"
#include "block/backend.h"
#include "block/export.h"
#include "block/graph.h"
#include "block/job.h"
#include "block/place.h"
#include "hw/runstate.h"
#include "lib/vhost_client.h"
#include "qapi/json.h"
#include "qmp/dispatch.h"
#include "qmp/monitor.h"

#define QUEUES      2
#define QUEUE       32
#define BLOCK       4096
#define BLOCKS      64 /* of each front-end */
#define BATCH       8
#define MILLISECOND INT64_C(1000000)

static char *directory;

/* ---- commands ---- */

/* The answer as text, or the error's; single quotes will do in arguments. */
static char *co_command(const char *name, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);
static char *co_command(const char *name, const char *fmt, ...)
{
    const struct qmp_command *command = qmp_command_find(name);
    struct json_object *in, *out = NULL;
    g_autoptr(GError) error = NULL;
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    in = qapi_json_parse(text, strlen(text), &error);
    if (!command || !in) {
        fail_msg("%s %s", name, text);
    }
    bool ok = command->invoke(in, &out, &error);
    json_object_put(in);
    char *answer = g_strdup(ok ? (out ? json_object_to_json_string(out) : "{}")
                               : error->message);
    json_object_put(out);
    return answer;
}

#define CO_ANSWERS(expected, ...)                         \
    do {                                                  \
        g_autofree char *text_ = co_command(__VA_ARGS__); \
        assert_string_equal(text_, expected);             \
    } while (0)
#define CO_OK(...) CO_ANSWERS("{}", __VA_ARGS__)

static struct loop *loop_of_node(const char *name)
{
    const struct place place = {.node = name};
    struct loop *loop;

    assert_true(place_find(&place, &loop));
    return loop;
}

static const char *where(const char *node)
{
    struct loop *loop = loop_of_node(node);

    return loop ? loop_name(loop) : "on its way";
}

/* A node that nobody holds elsewhere any more goes home soon. */
static void co_expect_home(const char *node)
{
    while (strcmp(where(node), "home")) {
        co_sleep_ns(MILLISECOND);
    }
}

static void co_add_export(const char *id, const char *node, const char *more)
{
    CO_OK("block-export-add",
          "{'type':'vhost-user-blk','id':'%s','node-name':'%s',"
          "'writable':true,'num-queues':%d,'addr':{'type':'unix',"
          "'path':'%s/%s.sock'}%s}",
          id, node, QUEUES, directory, id, more);
}

static void co_exports_gone(void)
{
    for (;;) {
        g_autofree char *left = co_command("query-block-exports", "{}");
        if (!strcmp(left, "[ ]")) {
            return;
        }
        co_sleep_ns(MILLISECOND);
    }
}

static void co_del_export(const char *id)
{
    CO_OK("block-export-del", "{'id':'%s','mode':'hard'}", id);
}

static void co_jobs_gone(void)
{
    for (;;) {
        g_autofree char *left = co_command("query-jobs", "{}");
        if (!strcmp(left, "[ ]")) {
            return;
        }
        co_sleep_ns(MILLISECOND);
    }
}

/* ---- a front-end on a thread of its own ---- */

struct front {
    const char *id;
    struct iothread *thread;
    struct vhost_client client;
    GRand *rand;
    uint8_t shadow[BLOCKS];
    struct coroutine *waiter; /* on the main loop */
    struct loop *main;
    gint stop, rounds; /* atomic */
    bool failed, done;
};

static bool write_batch(struct front *f)
{
    struct vhost_client *c = &f->client;
    struct guest_slot *slot[BATCH];
    int status[BATCH];
    uint8_t buf[BLOCK];
    int first = g_rand_int_range(f->rand, 0, BLOCKS / BATCH) * BATCH;

    for (int i = 0; i < BATCH; i++) {
        uint8_t value = g_rand_int(f->rand);
        unsigned queue = i % QUEUES;
        memset(buf, value, sizeof(buf));
        f->shadow[first + i] = value;
        slot[i] = vhost_client_submit(c, queue, VIRTIO_BLK_T_OUT,
                                      (first + i) * (BLOCK / 512), buf, BLOCK,
                                      &status[i]);
        if (!slot[i]) {
            return false;
        }
        vhost_client_kick(c, queue);
    }
    bool ok = vhost_client_io(c, 0, VIRTIO_BLK_T_FLUSH, 0, NULL, 0) == 0;
    for (int i = 0; i < BATCH; i++) {
        for (int n = 0; status[i] == 0xff && n < 1200000; n++) {
            if (!vhost_client_reap(c)) {
                g_usleep(100);
            }
        }
        ok = ok && status[i] == VIRTIO_BLK_S_OK;
        guest_queue_put(slot[i]);
    }
    return ok;
}

static bool read_back(struct front *f)
{
    uint8_t buf[BLOCK], expected[BLOCK];
    int block = g_rand_int_range(f->rand, 0, BLOCKS);

    memset(expected, f->shadow[block], BLOCK);
    return vhost_client_io(&f->client, block % QUEUES, VIRTIO_BLK_T_IN,
                           block * (BLOCK / 512), buf, BLOCK) == 0 &&
           !memcmp(buf, expected, BLOCK);
}

static void front_ended(void *opaque)
{
    ((struct front *)opaque)->done = true;
}

static void front_run(void *opaque)
{
    struct front *f = opaque;
    g_autofree char *path = g_strdup_printf("%s/%s.sock", directory, f->id);

    f->failed = !vhost_client_connect(&f->client, path, NULL, NULL) ||
                !vhost_client_start(&f->client, QUEUES, QUEUE);
    while (!f->failed && !g_atomic_int_get(&f->stop)) {
        f->failed = !write_batch(f) || !read_back(f) || !read_back(f);
        g_atomic_int_inc(&f->rounds);
    }
    for (int i = 0; !f->failed && i < QUEUES; i++) {
        f->failed = vhost_client_stop_queue(&f->client, i) < 0;
    }
    vhost_client_close(&f->client);
    loop_post_call(f->main, front_ended, f);
}

static struct front *front_start(const char *id)
{
    struct front *f = g_new0(struct front, 1);

    f->id = id;
    f->rand = g_rand_new_with_seed(*id);
    f->main = loop_current();
    f->thread = iothread_new(id);
    loop_post_call(iothread_loop(f->thread), front_run, f);
    return f;
}

/* Until it has done some more, or fails. */
static void co_front_progress(struct front *f)
{
    int goal = g_atomic_int_get(&f->rounds) + 5;

    while (g_atomic_int_get(&f->rounds) < goal && !f->done) {
        co_sleep_ns(MILLISECOND / 4);
    }
    assert_false(f->done);
}

static void co_front_end(struct front *f)
{
    g_atomic_int_set(&f->stop, 1);
    while (!f->done) {
        co_sleep_ns(MILLISECOND);
    }
    iothread_free(f->thread);
    assert_false(f->failed);
    assert_true(g_atomic_int_get(&f->rounds) > 0);
    g_rand_free(f->rand);
    g_free(f);
}

/* ---- scenarios ---- */

static void co_add_disk(const char *name, const char *aio)
{
    g_autofree char *path = g_strdup_printf("%s/%s.img", directory, name);
    g_autofree char *zeroes = g_malloc0(BLOCKS * BLOCK);

    assert_true(g_file_set_contents(path, zeroes, BLOCKS * BLOCK, NULL));
    CO_OK("blockdev-add",
          "{'driver':'raw','node-name':'%s','file':{'driver':'file',"
          "'node-name':'%s-file','filename':'%s'%s}}",
          name, name, path, aio);
}

static void co_move_a_few_times(struct front *f, const char *node)
{
    static const char *const to[] = {"t0", "t1", "t0"};

    for (int i = 0; i < 3; i++) {
        g_autofree char *more = g_strdup_printf(",'iothread':'%s'", to[i]);
        /* It takes the disk along, and the other export with it. */
        co_add_export("mover", node, more);
        co_front_progress(f);
        co_del_export("mover");
        do {
            co_sleep_ns(MILLISECOND);
        } while (strcmp(where(node), "home"));
        co_front_progress(f);
    }
}

static void co_engines(void)
{
    static const char *const engines[] = {
        "",
        ",'aio':'threads'",
        ",'aio':'io_uring'",
        ",'aio':'native','cache':{'direct':true}",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(engines); i++) {
        co_add_disk("disk", engines[i]);
        co_add_export("e0", "disk", "");
        struct front *f = front_start("e0");
        co_front_progress(f);
        co_move_a_few_times(f, "disk");
        co_front_end(f);
        co_del_export("e0");
        co_exports_gone();
        co_expect_home("disk");
        CO_OK("blockdev-del", "{'node-name':'disk'}");
    }
}

static void co_backups(void)
{
    co_add_disk("a", "");
    co_add_disk("b", "");
    co_add_export("ea", "a", ",'iothread':'t0','fixed-iothread':true");
    co_add_export("eb", "b", ",'iothread':'t1','fixed-iothread':true");
    assert_string_equal(where("a-file"), "t0");
    assert_string_equal(where("b-file"), "t1");
    struct front *fa = front_start("ea"), *fb = front_start("eb");

    co_front_progress(fa);
    co_front_progress(fb);
    co_add_disk("ta", "");
    co_add_disk("tb", "");
    CO_ANSWERS("Cannot change iothread of active block backend",
               "blockdev-backup",
               "{'job-id':'j','device':'a','target':'b','sync':'full'}");
    CO_OK("transaction",
          "{'actions':["
          "{'type':'block-dirty-bitmap-add','data':{'node':'a','name':'m'}},"
          "{'type':'block-dirty-bitmap-add','data':{'node':'b','name':'m'}},"
          "{'type':'blockdev-backup','data':{'job-id':'ja','device':'a',"
          "'target':'ta','sync':'full'}},"
          "{'type':'blockdev-backup','data':{'job-id':'jb','device':'b',"
          "'target':'tb','sync':'full'}}]}");
    co_jobs_gone();
    /* The targets came along, and have gone home. */
    co_expect_home("ta");
    co_expect_home("tb");
    for (int i = 0; i < 3; i++) {
        co_front_progress(fa);
        CO_OK("transaction",
              "{'properties':{'completion-mode':'grouped'},'actions':["
              "{'type':'blockdev-backup','data':{'job-id':'ja','device':'a',"
              "'target':'ta','sync':'incremental','bitmap':'m'}},"
              "{'type':'blockdev-backup','data':{'job-id':'jb','device':'b',"
              "'target':'tb','sync':'incremental','bitmap':'m'}}]}");
        if (i == 1) {
            /* One pulls the other down, on another thread. */
            g_autofree char *answer = co_command("job-cancel", "{'id':'ja'}");
            assert_true(!strcmp(answer, "{}") ||
                        !strcmp(answer, "Job not found"));
        }
        co_jobs_gone();
    }
    CO_ANSWERS("Transaction aborted using Abort action", "transaction",
               "{'actions':["
               "{'type':'block-dirty-bitmap-clear','data':{'node':'a',"
               "'name':'m'}},"
               "{'type':'block-dirty-bitmap-clear','data':{'node':'b',"
               "'name':'m'}},{'type':'abort','data':{}}]}");
    CO_OK("block-dirty-bitmap-merge",
          "{'node':'a','target':'m','bitmaps':[{'node':'b','name':'m'}]}");
    co_front_progress(fa);
    co_front_progress(fb);
    CO_ANSWERS("object 't0' is in use, can not be deleted", "object-del",
               "{'id':'t0'}");
    co_front_end(fa);
    co_front_end(fb);
    co_del_export("ea");
    co_del_export("eb");
    co_exports_gone();
    co_expect_home("a");
    CO_OK("blockdev-del", "{'node-name':'ta'}");
    CO_OK("blockdev-del", "{'node-name':'tb'}");
    CO_OK("blockdev-del", "{'node-name':'a'}");
    CO_OK("blockdev-del", "{'node-name':'b'}");
}

static void co_comings_and_goings(void)
{
    co_add_disk("a", "");
    co_add_export("ea", "a", ",'iothread':'t0'");
    struct front *fa = front_start("ea");

    for (int i = 0; i < 15; i++) {
        g_autofree char *name = g_strdup_printf("t%d", 2 + i % 2);
        g_autofree char *more = g_strdup_printf(",'iothread':'%s'", name);

        CO_OK("object-add", "{'qom-type':'iothread','id':'%s'}", name);
        CO_OK("blockdev-add",
              "{'driver':'null-co','node-name':'n','size':1048576}");
        co_add_export("en", "n", more);
        assert_string_equal(where("n"), name);
        struct front *fn = i % 3 ? NULL : front_start("en");
        if (i % 4 == 0) {
            CO_OK("stop", "{}");
            CO_OK("cont", "{}");
        }
        g_autofree char *stats = co_command("query-blockstats", "{}");
        g_autofree char *nodes = co_command("query-named-block-nodes", "{}");
        assert_string_equal(stats, "[ ]"); /* no export has a name there */
        assert_non_null(strstr(nodes, "\"node-name\": \"n\""));
        assert_non_null(strstr(nodes, "\"node-name\": \"a-file\""));
        if (fn) {
            g_atomic_int_set(&fn->stop, 1);
            while (!fn->done) {
                co_sleep_ns(MILLISECOND);
            }
            /* null-co gives back no data. */
            iothread_free(fn->thread);
            g_rand_free(fn->rand);
            g_free(fn);
        }
        co_del_export("en");
        do {
            co_sleep_ns(MILLISECOND);
        } while (strcmp(where("n"), "home"));
        CO_OK("blockdev-del", "{'node-name':'n'}");
        CO_OK("object-del", "{'id':'%s'}", name);
    }
    co_front_progress(fa);
    co_front_end(fa);
    co_del_export("ea");
    co_exports_gone();
    CO_OK("blockdev-del", "{'node-name':'a'}");
}

/* ---- the daemon around it ---- */

static void co_start_machine(void *opaque)
{
    co_vm_start();
}

static void co_end_home(void *opaque)
{
    co_exports_end();
    co_monitor_close_nodes();
}

static void co_body(void *opaque)
{
    void (*co_test)(void) = opaque;

    co_call_on(graph_home(), co_start_machine, NULL);
    CO_OK("object-add", "{'qom-type':'iothread','id':'t0'}");
    CO_OK("object-add", "{'qom-type':'iothread','id':'t1'}");
    co_test();
    CO_OK("object-del", "{'id':'t0'}");
    CO_OK("object-del", "{'id':'t1'}");
    co_call_on(graph_home(), co_end_home, NULL);
}

static void run(void (*co_test)(void))
{
    struct loop *loop = loop_new("main", LOOP_CLOCK_REAL);
    struct iothread *home = iothread_new("home");

    directory = g_dir_make_tmp("loops-XXXXXX", NULL);
    monitors_begin(loop, iothread_loop(home));
    loop_run_co(loop, co_body, co_test);
    assert_true(monitors_stop());
    monitors_end();
    iothread_free(home);
    while (loop_pass(loop, false)) {
    }
    loop_free(loop);
    g_autofree char *remove = g_strdup_printf("rm -r %s", directory);
    assert_int_equal(system(remove), 0);
    g_clear_pointer(&directory, g_free);
}

static void a_front_end_does_not_notice_that_its_disk_moves(void **state)
{
    run(co_engines);
}

static void disks_on_two_threads_are_backed_up_together(void **state)
{
    run(co_backups);
}

static void exports_and_threads_come_and_go_under_load(void **state)
{
    run(co_comings_and_goings);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_front_end_does_not_notice_that_its_disk_moves),
        cmocka_unit_test(disks_on_two_threads_are_backed_up_together),
        cmocka_unit_test(exports_and_threads_come_and_go_under_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
