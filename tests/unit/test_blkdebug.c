/*
 * blkdebug: which requests fail, and when.
 */
#include "block/node.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "aio/coroutine.h"
#include "block/backend.h"
#include "block/graph.h"
#include "block/request.h"
#include "qapi/options.h"
#include "tests/unit/lib/ram_node.h"

static struct node *node;
static struct backend *backend;
static char buf[65536];

static struct node *co_try_open(const char *rules, GError **error)
{
    g_autofree char *text = g_strdup_printf(
        "driver=blkdebug,node-name=dbg,discard=unmap,image.driver=null-co,"
        "image.size=1048576,image.discard=unmap%s%s",
        *rules ? "," : "", rules);
    qapi_auto(blockdev_options) o = qapi_blockdev_options_parse(text, error);

    return o ? co_node_open(o, error) : NULL;
}

static void co_open(const char *rules)
{
    GError *error = NULL;

    node = co_try_open(rules, &error);
    if (!node) {
        fail_msg("%s", error->message);
    }
    backend = co_backend_new("b", node, PERM_CONSISTENT_READ | PERM_WRITE,
                             PERM_ALL, NULL);
    assert_non_null(backend);
}

static void co_close(void)
{
    co_backend_unref(backend);
    co_node_unref(node);
}

static int co_read(int64_t offset)
{
    return co_node_pread(node, offset, buf, 4096, 0);
}

static int co_write(int64_t offset)
{
    return co_node_pwrite(node, offset, buf, 4096, 0);
}

static void co_event(void)
{
    co_open("inject-error.0.event=read_aio,inject-error.0.errno=28");
    assert_int_equal(co_read(0), 0);
    co_node_debug_event(node, BLKDEBUG_EVENT_WRITE_AIO);
    assert_int_equal(co_read(0), 0);
    co_node_debug_event(node, BLKDEBUG_EVENT_READ_AIO);
    assert_int_equal(co_read(0), -ENOSPC);
    assert_int_equal(co_write(0), -ENOSPC);
    assert_int_equal(co_node_pwrite_zeroes(node, 0, 512, 0), -ENOSPC);
    assert_int_equal(co_node_pdiscard(node, 0, 512), -ENOSPC);
    assert_int_equal(co_node_flush(node), -ENOSPC);
    /* That only when it is asked for. */
    struct block_status s;
    assert_int_equal(co_node_block_status(node, true, 0, 512, &s), 0);
    assert_int_equal(s.bytes, 512);
    co_close();
}

static void an_event_arms_its_rules(void **state)
{
    ram_run(co_event);
}

static void co_always(void)
{
    co_open("inject-error.0.event=none,inject-error.0.iotype=write,"
            "inject-error.1.event=none,inject-error.1.iotype=block-status,"
            "inject-error.1.errno=22");
    struct block_status s;
    assert_int_equal(co_read(0), 0);
    assert_int_equal(co_write(0), -EIO);
    assert_int_equal(co_write(4096), -EIO);
    assert_int_equal(co_node_pwrite_zeroes(node, 0, 512, 0), 0);
    assert_int_equal(co_node_block_status(node, true, 0, 512, &s), -EINVAL);
    co_close();
}

static void without_event_a_rule_is_armed_at_once(void **state)
{
    ram_run(co_always);
}

static void co_once(void)
{
    co_open("inject-error.0.event=none,inject-error.0.once=on,"
            "inject-error.0.sector=8");
    assert_int_equal(co_read(0), 0);
    assert_int_equal(co_read(8192), 0);
    assert_int_equal(co_node_flush(node), 0);
    assert_int_equal(co_read(4096), -EIO);
    assert_int_equal(co_read(4096), 0);
    co_close();
    /* An event does not bring it back. */
    co_open("inject-error.0.event=pwritev,inject-error.0.once=on");
    assert_int_equal(co_write(0), -EIO);
    assert_int_equal(co_write(0), 0);
    co_close();
}

static void once_and_sector_choose_the_request(void **state)
{
    ram_run(co_once);
}

static void co_states(void)
{
    co_open("set-state.0.event=l2_update,set-state.0.state=1,"
            "set-state.0.new_state=2,"
            "set-state.1.event=l2_update,set-state.1.state=2,"
            "set-state.1.new_state=3,"
            "inject-error.0.event=cluster_alloc,inject-error.0.state=3");
    for (int i = 0; i < 2; i++) {
        co_node_debug_event(node, BLKDEBUG_EVENT_CLUSTER_ALLOC);
        assert_int_equal(co_write(0), 0);
        co_node_debug_event(node, BLKDEBUG_EVENT_L2_UPDATE);
    }
    assert_int_equal(co_write(0), 0);
    co_node_debug_event(node, BLKDEBUG_EVENT_CLUSTER_ALLOC);
    assert_int_equal(co_write(0), -EIO);
    co_close();
}

static void states_count_events(void **state)
{
    ram_run(co_states);
}

/* As qemu-io shows: of two rules that match, the first sets the state, and a
 * rule for the new state is armed only by the next such event. */
static void co_state_order(void)
{
    co_open("set-state.0.event=write_aio,set-state.0.new_state=5,"
            "set-state.1.event=write_aio,set-state.1.state=5,"
            "set-state.1.new_state=6,"
            "inject-error.0.event=write_aio,inject-error.0.state=5,"
            "inject-error.0.iotype=write,"
            "inject-error.1.event=read_aio,inject-error.1.state=6");
    co_node_debug_event(node, BLKDEBUG_EVENT_WRITE_AIO);
    assert_int_equal(co_write(0), 0);
    co_node_debug_event(node, BLKDEBUG_EVENT_WRITE_AIO);
    assert_int_equal(co_write(0), -EIO);
    co_node_debug_event(node, BLKDEBUG_EVENT_READ_AIO);
    assert_int_equal(co_read(0), 0);
    co_close();
}

static void rules_look_at_the_state_before_the_event(void **state)
{
    ram_run(co_state_order);
}

static void co_replace(void)
{
    co_open("inject-error.0.event=read_aio,inject-error.0.iotype=read,"
            "inject-error.1.event=write_aio,inject-error.1.iotype=write");
    co_node_debug_event(node, BLKDEBUG_EVENT_READ_AIO);
    assert_int_equal(co_read(0), -EIO);
    /* Nothing is armed by this one, so nothing changes. */
    co_node_debug_event(node, BLKDEBUG_EVENT_L2_LOAD);
    assert_int_equal(co_read(0), -EIO);
    co_node_debug_event(node, BLKDEBUG_EVENT_WRITE_AIO);
    assert_int_equal(co_read(0), 0);
    assert_int_equal(co_write(0), -EIO);
    co_close();
}

static void rules_of_another_event_take_over(void **state)
{
    ram_run(co_replace);
}

static bool ended;

static void co_read_fails(void *opaque)
{
    assert_int_equal(co_read(0), -EIO);
    ended = true;
}

static void co_immediately(void)
{
    for (int i = 0; i < 2; i++) {
        co_open(i ? "inject-error.0.event=none,inject-error.0.immediately=on"
                  : "inject-error.0.event=none");
        ended = false;
        co_enter(co_create(co_read_fails, NULL));
        assert_int_equal(ended, i);
        co_ram_settle();
        assert_true(ended);
        co_close();
    }
}

static void immediately_fails_without_suspending(void **state)
{
    ram_run(co_immediately);
}

static void co_limits(void)
{
    co_open("align=4096,max-transfer=8192,opt-write-zero=65536,"
            "max-write-zero=131072,opt-discard=8192,max-discard=16384");
    assert_int_equal(node->limits.request_alignment, 4096);
    assert_int_equal(node->limits.max_transfer, 8192);
    assert_int_equal(node->limits.pwrite_zeroes_align, 65536);
    assert_int_equal(node->limits.max_pwrite_zeroes, 131072);
    assert_int_equal(node->limits.pdiscard_align, 8192);
    assert_int_equal(node->limits.max_pdiscard, 16384);
    assert_int_equal(node->length, 1 << 20);
    assert_int_equal(co_node_pwrite(node, 100, buf, 60000, 0), 0);
    assert_int_equal(co_node_pread(node, 100, buf, 60000, 0), 0);
    assert_int_equal(co_node_pwrite_zeroes(node, 100, 300000, 0), 0);
    assert_int_equal(co_node_pdiscard(node, 100, 300000), 0);
    co_close();
}

static void limits_can_be_set(void **state)
{
    ram_run(co_limits);
}

static void refuse(const char *rules, const char *message)
{
    g_autoptr(GError) error = NULL;

    assert_null(co_try_open(rules, &error));
    assert_string_equal(error->message, message);
}

static void co_refusals(void)
{
    refuse("align=3", "Cannot meet constraints with align 3");
    refuse("align=4294967296", "Cannot meet constraints with align 4294967296");
    refuse("align=512,max-transfer=100",
           "Cannot meet constraints with max-transfer 100");
    refuse("align=512,opt-write-zero=100",
           "Cannot meet constraints with opt-write-zero 100");
    refuse("align=512,opt-write-zero=4096,max-write-zero=4608",
           "Cannot meet constraints with max-write-zero 4608");
    refuse("align=512,opt-discard=100",
           "Cannot meet constraints with opt-discard 100");
    refuse("max-discard=-512", "Cannot meet constraints with max-discard -512");
    refuse("inject-error.0.event=none,inject-error.0.errno=-5",
           "Invalid errno -5");
    refuse("inject-error.0.event=none,inject-error.0.sector=-2",
           "Invalid sector -2");
    refuse("config=/nowhere/rules.conf",
           "Could not read blkdebug config file: No such file or directory");
    refuse("config=/dev/zero",
           "Could not read blkdebug config file: Invalid argument");
}

static void what_makes_no_sense_is_refused(void **state)
{
    ram_run(co_refusals);
}

static void co_perms(void)
{
    co_open("take-child-perms.0=resize,unshare-child-perms.0=write");
    assert_int_equal(node->file->perm,
                     PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE);
    assert_false(node->file->shared & PERM_WRITE);
    co_close();
}

static void permissions_can_be_taken_and_kept(void **state)
{
    ram_run(co_perms);
}

/* What a filter above a node with data does to writes past the end. */
static void co_grow(void)
{
    co_open("");
    assert_int_equal(co_node_pwrite(node, 1 << 20, buf, 512, 0), 0);
    assert_int_equal(node->length, (1 << 20) + 512);
    assert_int_equal(node->file->child->length, (1 << 20) + 512);
    co_close();
}

static void a_file_below_grows_through_it(void **state)
{
    ram_run(co_grow);
}

/* raw announces what it does to its file, as formats do. */
static void co_under_raw(void)
{
    g_autoptr(GError) error = NULL;
    qapi_auto(blockdev_options) o = qapi_blockdev_options_parse(
        "driver=raw,file.driver=blkdebug,file.image.driver=null-co,"
        "file.inject-error.0.event=write_aio,file.inject-error.0.once=on,"
        "file.inject-error.0.iotype=write",
        &error);

    node = o ? co_node_open(o, &error) : NULL;
    assert_non_null(node);
    assert_int_equal(co_read(0), 0);
    assert_int_equal(co_write(0), -EIO);
    assert_int_equal(co_write(0), 0);
    co_node_unref(node);
}

static void raw_above_announces_reads_and_writes(void **state)
{
    ram_run(co_under_raw);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_event_arms_its_rules),
        cmocka_unit_test(without_event_a_rule_is_armed_at_once),
        cmocka_unit_test(once_and_sector_choose_the_request),
        cmocka_unit_test(states_count_events),
        cmocka_unit_test(rules_look_at_the_state_before_the_event),
        cmocka_unit_test(rules_of_another_event_take_over),
        cmocka_unit_test(immediately_fails_without_suspending),
        cmocka_unit_test(limits_can_be_set),
        cmocka_unit_test(what_makes_no_sense_is_refused),
        cmocka_unit_test(permissions_can_be_taken_and_kept),
        cmocka_unit_test(a_file_below_grows_through_it),
        cmocka_unit_test(raw_above_announces_reads_and_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
