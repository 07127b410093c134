/*
 * Entries of the snapshot table, in memory and as bytes (qcow2 specification,
 * "Snapshots"). Nothing here suspends.
 */
#include "block/drivers/qcow2/snapshots.h"

#include <endian.h>
#include <string.h>
#include "util/range.h"

/* The extra data that are known here. */
struct disk_extra {
    uint64_t vm_state_size;
    uint64_t disk_size;
    uint64_t icount;
};
G_STATIC_ASSERT(sizeof(struct disk_extra) == QCOW2_KNOWN_SNAPSHOT_EXTRA);

struct qcow2_snapshot *qcow2_snapshot_new(void)
{
    struct qcow2_snapshot *sn = g_new0(struct qcow2_snapshot, 1);

    sn->icount = UINT64_MAX;
    return sn;
}

void qcow2_snapshot_free(struct qcow2_snapshot *sn)
{
    if (sn) {
        g_free(sn->id);
        g_free(sn->name);
        g_free(sn->unknown);
        g_free(sn);
    }
}

static void free_member(gpointer sn)
{
    qcow2_snapshot_free(sn);
}

GPtrArray *qcow2_snapshot_list(void)
{
    return g_ptr_array_new_with_free_func(free_member);
}

static uint32_t unknown_bytes(const struct qcow2_snapshot *sn)
{
    return sn->extra_bytes > sizeof(struct disk_extra)
               ? sn->extra_bytes - sizeof(struct disk_extra)
               : 0;
}

static char *dup_text(const void *at, size_t bytes)
{
    char *text = g_malloc(bytes + 1);

    memcpy(text, at, bytes);
    text[bytes] = 0;
    return text;
}

struct qcow2_snapshot *qcow2_snapshot_copy(const struct qcow2_snapshot *sn)
{
    struct qcow2_snapshot *copy = g_memdup2(sn, sizeof(*sn));

    copy->id = dup_text(sn->id, sn->id_bytes);
    copy->name = dup_text(sn->name, sn->name_bytes);
    copy->unknown = g_memdup2(sn->unknown, unknown_bytes(sn));
    return copy;
}

bool qcow2_snapshot_has_size(const struct qcow2_snapshot *sn)
{
    return sn->extra_bytes >= G_STRUCT_OFFSET(struct disk_extra, icount);
}

/* ---- from bytes ---------------------------------------------------------- */

static struct qcow2_disk_snapshot load(const uint8_t *at)
{
    struct qcow2_disk_snapshot d;

    memcpy(&d, at, sizeof(d));
    return d;
}

uint32_t qcow2_snapshot_extra_bytes(const uint8_t *at)
{
    struct qcow2_disk_snapshot d = load(at);
    return be32toh(d.extra_size);
}

void qcow2_snapshot_cut_extra(uint8_t *at)
{
    struct qcow2_disk_snapshot d = load(at);

    d.extra_size = htobe32(QCOW2_MAX_SNAPSHOT_EXTRA);
    memcpy(at, &d, sizeof(d));
}

int64_t qcow2_snapshot_entry_bytes(const uint8_t *at)
{
    struct qcow2_disk_snapshot d = load(at);

    return (int64_t)sizeof(d) + be32toh(d.extra_size) + be16toh(d.id_size) +
           be16toh(d.name_size);
}

struct qcow2_snapshot *qcow2_snapshot_parse(const uint8_t *at, uint32_t keep)
{
    struct qcow2_disk_snapshot d = load(at);
    struct qcow2_snapshot *sn = qcow2_snapshot_new();
    const uint8_t *extra = at + sizeof(d);
    const uint8_t *id = extra + be32toh(d.extra_size);
    struct disk_extra known = {0};

    sn->l1_offset = be64toh(d.l1_offset);
    sn->l1_size = be32toh(d.l1_size);
    sn->date_sec = be32toh(d.seconds);
    sn->date_nsec = be32toh(d.nanoseconds);
    sn->vm_clock_nsec = be64toh(d.vm_clock);
    sn->vm_state_size = be32toh(d.vm_state_size);
    sn->extra_bytes = MIN(be32toh(d.extra_size), keep);
    memcpy(&known, extra, MIN(sn->extra_bytes, sizeof(known)));
    if (sn->extra_bytes >= G_STRUCT_OFFSET(struct disk_extra, disk_size)) {
        sn->vm_state_size = be64toh(known.vm_state_size);
    }
    if (qcow2_snapshot_has_size(sn)) {
        sn->disk_size = be64toh(known.disk_size);
    }
    if (sn->extra_bytes >= sizeof(known)) {
        sn->icount = be64toh(known.icount);
    }
    if (unknown_bytes(sn)) {
        sn->unknown = g_memdup2(extra + sizeof(known), unknown_bytes(sn));
    }
    sn->id_bytes = be16toh(d.id_size);
    sn->name_bytes = be16toh(d.name_size);
    sn->id = dup_text(id, sn->id_bytes);
    sn->name = dup_text(id + sn->id_bytes, sn->name_bytes);
    return sn;
}

/* ---- to bytes ------------------------------------------------------------ */

int64_t qcow2_snapshot_built_bytes(const struct qcow2_snapshot *sn)
{
    return align_up((int64_t)sizeof(struct qcow2_disk_snapshot) +
                        sizeof(struct disk_extra) + unknown_bytes(sn) +
                        sn->id_bytes + sn->name_bytes,
                    8);
}

void qcow2_snapshot_build(const struct qcow2_snapshot *sn, uint64_t disk_size,
                          uint8_t *at)
{
    uint32_t unknown = unknown_bytes(sn);
    bool long_state = sn->vm_state_size > UINT32_MAX;
    struct qcow2_disk_snapshot d = {
        .l1_offset = htobe64(sn->l1_offset),
        .l1_size = htobe32(sn->l1_size),
        .id_size = htobe16(sn->id_bytes),
        .name_size = htobe16(sn->name_bytes),
        .seconds = htobe32(sn->date_sec),
        .nanoseconds = htobe32(sn->date_nsec),
        .vm_clock = htobe64(sn->vm_clock_nsec),
        .vm_state_size = htobe32(long_state ? 0 : sn->vm_state_size),
        .extra_size = htobe32(sizeof(struct disk_extra) + unknown),
    };
    struct disk_extra known = {
        .vm_state_size = htobe64(sn->vm_state_size),
        .disk_size =
            htobe64(qcow2_snapshot_has_size(sn) ? sn->disk_size : disk_size),
        .icount = htobe64(sn->icount),
    };

    memset(at, 0, qcow2_snapshot_built_bytes(sn));
    memcpy(at, &d, sizeof(d));
    at += sizeof(d);
    memcpy(at, &known, sizeof(known));
    at += sizeof(known);
    if (unknown) {
        memcpy(at, sn->unknown, unknown);
    }
    at += unknown;
    memcpy(at, sn->id, sn->id_bytes);
    memcpy(at + sn->id_bytes, sn->name, sn->name_bytes);
}
