/*
 * The inputs of qcow2_input.h.
 */
#include "tests/fuzz/lib/qcow2_input.h"

#include <endian.h>
#include <string.h>
#include "aio/loop.h"
#include "block/driver.h"
#include "block/drivers/qcow2/format.h"
#include "qapi/options.h"
#include "tests/unit/lib/mem_disk.h"

enum { SECTOR = 512, MAX_FILE = 1 << 20 };

struct run {
    struct qcow2_input in;
    void (*co_one)(struct qcow2_input *in);
};

static void silent(const gchar *domain, GLogLevelFlags level,
                   const gchar *message, gpointer opaque)
{
}

/* For whoever looks into a finding. */
static void say(const char *what, const char *text)
{
    if (g_getenv("FUZZ_SAY")) {
        g_printerr("%s%s\n", what, text);
    }
}

static void co_run(void *opaque)
{
    struct run *run = opaque;
    struct node *data = co_mem_disk("data");

    run->in.disk = co_mem_disk("disk");
    memcpy(mem_disk_of(run->in.disk)->data, run->in.data, run->in.size);
    run->in.disk->length = run->in.size;
    run->co_one(&run->in);
    co_node_unref(run->in.disk);
    co_node_unref(data);
}

int qcow2_input_run(const uint8_t *data, size_t size,
                    void (*co_one)(struct qcow2_input *in))
{
    struct run run = {.co_one = co_one};

    run.in.data = data;
    run.in.size = MIN(size - size % SECTOR, MAX_FILE);
    run.in.script = data + size - size % SECTOR;
    run.in.script_left = size % SECTOR;
    g_log_set_default_handler(silent, NULL);
    struct loop *loop = loop_new("fuzz", LOOP_CLOCK_SIMULATED);
    loop_run_co(loop, co_run, &run);
    while (loop_pass(loop, false)) {
    }
    loop_free(loop);
    return 0;
}

bool qcow2_input_is_tedious(const struct qcow2_input *in)
{
    const size_t at = offsetof(struct qcow2_disk_header, nb_snapshots);
    uint32_t n = 0;

    if (in->size >= at + sizeof(n)) {
        memcpy(&n, in->data + at, sizeof(n));
    }
    return be32toh(n) > in->size / sizeof(struct qcow2_disk_snapshot);
}

uint8_t qcow2_input_u8(struct qcow2_input *in)
{
    if (!in->script_left) {
        return 0;
    }
    in->script_left--;
    return *in->script++;
}

/* An image that says that it has one cannot be opened without. */
static bool has_data_file(void)
{
    struct node *disk = node_find("disk", NULL);
    const uint8_t *header = mem_disk_of(disk)->data;

    return disk->length > 80 && header[7] >= 3 && header[79] & 4;
}

struct node *co_qcow2_input_open(enum qcow2_input_mode mode)
{
    bool writable = mode == QCOW2_INPUT_WRITE || mode == QCOW2_INPUT_REPAIR;
    const struct open_defaults defaults = {.check = mode >= QCOW2_INPUT_LOOK};
    g_autoptr(GError) error = NULL;
    g_autofree char *text =
        g_strdup_printf("{'driver': 'qcow2', 'file': 'disk', 'backing': null, "
                        "%s'discard': 'unmap', 'read-only': %s}",
                        has_data_file() ? "'data-file': 'data', " : "",
                        writable ? "false" : "true");
    qapi_auto(blockdev_options) options =
        qapi_blockdev_options_parse(text, NULL);
    struct node *node = co_node_open_with(options, &defaults, &error);

    g_assert(!node == !!error);
    say("open: ", node ? "" : error->message);
    return node;
}

static void found_one(struct check_report *check, enum check_report_kind kind,
                      bool fixed, const char *message)
{
    g_assert(*message);
    say(fixed                       ? "repaired: "
        : kind == CHECK_REPORT_LEAK ? "leak: "
                                    : "error: ",
        message);
}

bool co_qcow2_input_check(const char *fix, struct check_report *found)
{
    g_autoptr(GError) error = NULL;
    struct node *node =
        co_qcow2_input_open(*fix ? QCOW2_INPUT_REPAIR : QCOW2_INPUT_LOOK);

    *found = (struct check_report){.fix_leaks = *fix,
                                   .fix_errors = !strcmp(fix, "all"),
                                   .found = found_one};
    if (!node) {
        return false;
    }
    say("check: ", fix);
    bool ok = node->driver->co_check(node, found, &error);
    g_assert(ok == !error);
    say("done: ", ok ? "" : error->message);
    co_node_unref(node);
    return ok && !found->check_errors;
}
