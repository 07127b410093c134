/*
 * A qcow2 image of any content: checked, repaired, checked again.
 *
 * A check writes nothing. What a repair says to be gone is gone: the next check
 * agrees with what it said, and a repaired image can be opened for writing.
 * Where nothing but leaks was found, the disk reads as before.
 */
#include <string.h>

#include "block/request.h"
#include "tests/fuzz/lib/qcow2_input.h"
#include "tests/unit/lib/mem_disk.h"

enum { SHOWN = 64 << 10 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max,
                               unsigned seed);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max,
                               unsigned seed)
{
    return qcow2_mutate(data, size, max, seed);
}

static bool co_look(struct qcow2_input *in, struct check_report *found)
{
    struct mem_disk *d = mem_disk_of(in->disk);
    g_autofree void *before = g_memdup2(d->data, in->disk->length);
    int64_t length = in->disk->length;

    bool ok = co_qcow2_input_check("", found);
    g_assert(in->disk->length == length);
    g_assert(!length || !memcmp(d->data, before, length));
    g_assert(!found->errors_fixed && !found->leaks_fixed);
    return ok;
}

/* Leaks only: what else is wrong stays as it is. */
static void co_repair_leaks(struct qcow2_input *in)
{
    struct check_report before, said, after;

    co_look(in, &before);
    if (co_qcow2_input_check("leaks", &said)) {
        g_assert(co_look(in, &after));
        g_assert(!said.errors_fixed);
        g_assert(after.leaks == said.leaks);
        g_assert(after.errors == said.errors);
    }
}

static void co_repair_all(struct qcow2_input *in)
{
    struct check_report said, after;

    if (!co_qcow2_input_check("all", &said) || said.errors || said.leaks) {
        return;
    }
    g_assert(co_look(in, &after));
    g_assert(!after.errors && !after.leaks);
    struct node *node = co_qcow2_input_open(QCOW2_INPUT_WRITE);
    if (node) {
        co_node_unref(node);
        g_assert(co_look(in, &after));
        g_assert(!after.errors && !after.leaks);
    }
}

/* What the start of the disk shows, and where it cannot be read. */
static void co_show(uint8_t *to)
{
    struct node *node = co_qcow2_input_open(QCOW2_INPUT_LOOK);

    memset(to, 0xee, SHOWN);
    for (int64_t at = 0; node && at < MIN(node->length, SHOWN); at += 512) {
        if (co_node_pread(node, at, to + at, 512, 0) < 0) {
            memset(to + at, 0xdd, 512);
        }
    }
    if (node) {
        co_node_unref(node);
    }
}

static void co_one(struct qcow2_input *in)
{
    static uint8_t before[SHOWN], after[SHOWN];
    struct check_report found;

    if (qcow2_input_is_tedious(in)) {
        return;
    }
    /* The header may be guest data as well, and the bits in byte 79 change. */
    bool sound = co_look(in, &found) && !found.errors && !in->data[79];
    co_show(before);
    if (qcow2_input_u8(in) & 1) {
        co_repair_leaks(in);
    }
    co_repair_all(in);
    co_show(after);
    g_assert(!sound || !memcmp(before, after, SHOWN));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return qcow2_input_run(data, size, co_one);
}
