/*
 * Mutations that know what a qcow2 image is made of.
 *
 * Bytes changed at random mostly hit guest data, and what moves when a byte is
 * put in is an image no more. So a field is picked, of the header or of a table
 * that can be reached from there, and gets a value that matters: a limit, a
 * neighbour of what it was, the place of some cluster, or what another field
 * says, so that two tables claim the same. Now and then libFuzzer's own
 * mutations have their turn, and so has the script at the end.
 */
#include <endian.h>
#include <string.h>

#include "block/drivers/qcow2/format.h"
#include "tests/fuzz/lib/qcow2_input.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

struct image {
    uint8_t *data;
    size_t size; /* without the script */
    uint64_t rng;
};

struct field {
    uint64_t offset;
    unsigned bytes;
};

static uint64_t rnd(struct image *m, uint64_t below)
{
    m->rng ^= m->rng << 13;
    m->rng ^= m->rng >> 7;
    m->rng ^= m->rng << 17;
    return m->rng % below;
}

/* What is outside reads as 0 and stays so. */
static uint64_t get(const struct image *m, struct field f)
{
    uint64_t be = 0;

    if (f.offset <= m->size && f.bytes <= m->size - f.offset) {
        memcpy((char *)&be + 8 - f.bytes, m->data + f.offset, f.bytes);
    }
    return be64toh(be);
}

static void put(struct image *m, struct field f, uint64_t value)
{
    uint64_t be = htobe64(value);

    if (f.offset <= m->size && f.bytes <= m->size - f.offset) {
        memcpy(m->data + f.offset, (char *)&be + 8 - f.bytes, f.bytes);
    }
}

#define FIELD(type, name)                                                \
    {                                                                    \
        offsetof(struct type, name), sizeof(((struct type *)NULL)->name) \
    }
#define HEADER(name) FIELD(qcow2_disk_header, name)
#define GET(m, base, type, name)                                \
    get(m, (struct field){(base) + offsetof(struct type, name), \
                          sizeof(((struct type *)NULL)->name)})
#define GET_HEADER(m, name) GET(m, 0, qcow2_disk_header, name)

static const struct field header_fields[] = {
    HEADER(version),       HEADER(backing_file_offset),
    HEADER(cluster_bits),  HEADER(backing_file_size),
    HEADER(size),          HEADER(crypt_method),
    HEADER(l1_size),       HEADER(l1_table_offset),
    HEADER(incompatible),  HEADER(refcount_table_offset),
    HEADER(compatible),    HEADER(refcount_table_clusters),
    HEADER(nb_snapshots),  HEADER(snapshots_offset),
    HEADER(autoclear),     HEADER(refcount_order),
    HEADER(header_length), HEADER(compression_type),
};

#define SNAPSHOT(name) FIELD(qcow2_disk_snapshot, name)
static const struct field snapshot_fields[] = {
    SNAPSHOT(l1_offset),
    SNAPSHOT(l1_size),
    SNAPSHOT(id_size),
    SNAPSHOT(name_size),
    SNAPSHOT(vm_state_size),
    SNAPSHOT(extra_size),
    {40, 8}, /* the size of the VM state, in the extra data */
    {48, 8}, /* the size of the disk */
};

#define BITMAPS(name) FIELD(qcow2_disk_bitmaps, name)
static const struct field bitmaps_fields[] = {
    BITMAPS(count), BITMAPS(directory_size), BITMAPS(directory_offset)};

#define BITMAP(name) FIELD(qcow2_disk_bitmap, name)
static const struct field bitmap_fields[] = {
    BITMAP(table_offset),    BITMAP(table_size),
    BITMAP(flags),           BITMAP(type),
    BITMAP(name_size),       BITMAP(granularity_bits),
    BITMAP(extra_data_size),
};

static struct field one_of(struct image *m, uint64_t base,
                           const struct field *fields, size_t n)
{
    struct field f = fields[rnd(m, n)];

    f.offset += base;
    return f;
}

static uint64_t cluster_size(const struct image *m)
{
    return UINT64_C(1) << (GET_HEADER(m, cluster_bits) & 31);
}

/* One of n entries of 8 bytes, most often one that is not 0. */
static struct field entry(struct image *m, uint64_t table, uint64_t n)
{
    struct field f = {table, 8};

    for (unsigned i = 0; i < 8; i++) {
        f.offset = table + 8 * rnd(m, n % 4096 + !(n % 4096));
        if (get(m, f)) {
            break;
        }
    }
    return f;
}

static struct field l1_entry(struct image *m)
{
    uint64_t table = GET_HEADER(m, l1_table_offset);
    uint64_t n = GET_HEADER(m, l1_size), sn = GET_HEADER(m, snapshots_offset);

    if (sn && rnd(m, 3) == 0) {
        table = GET(m, sn, qcow2_disk_snapshot, l1_offset);
        n = GET(m, sn, qcow2_disk_snapshot, l1_size);
    }
    return entry(m, table, n);
}

static struct field l2_entry(struct image *m)
{
    uint64_t table = get(m, l1_entry(m)) & QCOW2_OFFSET_MASK;

    return entry(m, table, cluster_size(m) / 8);
}

static struct field reftable_entry(struct image *m)
{
    return entry(m, GET_HEADER(m, refcount_table_offset),
                 GET_HEADER(m, refcount_table_clusters) * cluster_size(m) / 8);
}

static struct field refcount(struct image *m)
{
    uint64_t block = get(m, reftable_entry(m)) & QCOW2_REFTABLE_MASK;
    unsigned order = GET_HEADER(m, refcount_order) % 7;
    unsigned bytes = order > 3 ? 1u << (order - 3) : 1;
    uint64_t n = MIN(cluster_size(m), m->size) / bytes;

    return (struct field){block + bytes * rnd(m, MIN(n, 256) + !n), bytes};
}

static struct field bitmap_field(struct image *m)
{
    size_t at = QCOW2_V2_HEADER, end = MIN(m->size, 4096);

    while (at < end && get(m, (struct field){at, 4}) != QCOW2_EXT_BITMAPS) {
        at += 8;
    }
    at += sizeof(struct qcow2_disk_extension);
    uint64_t directory = GET(m, at, qcow2_disk_bitmaps, directory_offset);
    switch (rnd(m, 3)) {
    case 0:
        return one_of(m, at, bitmaps_fields, G_N_ELEMENTS(bitmaps_fields));
    case 1:
        return one_of(m, directory, bitmap_fields, G_N_ELEMENTS(bitmap_fields));
    default:
        return entry(m, GET(m, directory, qcow2_disk_bitmap, table_offset),
                     GET(m, directory, qcow2_disk_bitmap, table_size));
    }
}

static struct field pick(struct image *m)
{
    switch (rnd(m, 10)) {
    case 0:
    case 1:
        return one_of(m, 0, header_fields, G_N_ELEMENTS(header_fields));
    case 2:
        return l1_entry(m);
    case 3:
    case 4:
        return l2_entry(m);
    case 5:
        return reftable_entry(m);
    case 6:
    case 7:
        return refcount(m);
    case 8:
        return one_of(m, GET_HEADER(m, snapshots_offset), snapshot_fields,
                      G_N_ELEMENTS(snapshot_fields));
    default:
        return bitmap_field(m);
    }
}

static uint64_t value(struct image *m, uint64_t old)
{
    uint64_t clusters = m->size / cluster_size(m) + 2;

    switch (rnd(m, 8)) {
    case 0:
        return rnd(m, 4);
    case 1:
        return UINT64_C(1) << rnd(m, 64);
    case 2:
        return (UINT64_C(1) << rnd(m, 64)) - 1;
    case 3:
        return old + rnd(m, 3) - 1;
    case 4:
        return old ^ UINT64_C(1) << rnd(m, 64);
    case 5:
        return get(m, pick(m));
    case 6:
        return rnd(m, clusters) * cluster_size(m);
    default:
        return rnd(m, clusters) * cluster_size(m) | QCOW2_COPIED;
    }
}

size_t qcow2_mutate(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    size_t script = size % 512;
    struct image m = {data, size - script, seed * 2654435761u + 1};
    uint64_t kind = rnd(&m, 8);

    if (m.size < QCOW2_FULL_HEADER || kind == 0) {
        return LLVMFuzzerMutate(data, size, max);
    }
    if (kind == 1 && m.size < max) {
        return m.size +
               LLVMFuzzerMutate(data + m.size, script, MIN(max - m.size, 64));
    }
    for (uint64_t n = 1 + rnd(&m, 3); n; n--) {
        struct field f = pick(&m);
        put(&m, f, value(&m, get(&m, f)));
    }
    return size;
}
