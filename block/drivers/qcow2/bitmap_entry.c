/*
 * Entries of the bitmap directory, in memory.
 *
 * An entry keeps the bytes that it has on disk, so that what is not known here
 * (extra data, other types) comes through every rewrite of the directory. The
 * padding is the directory's. Pure functions.
 */
#include "block/drivers/qcow2/bitmap_entry.h"

#include <endian.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include "block/dirty_bitmap.h"
#include "block/drivers/qcow2/qcow2.h"

#define HEAD sizeof(struct qcow2_disk_bitmap)

void stored_bitmap_free(struct stored_bitmap *b)
{
    g_free(b->entry);
    g_free(b->name);
    g_free(b->table);
    g_free(b->damage);
    g_free(b);
}

GPtrArray *stored_bitmaps_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)stored_bitmap_free);
}

struct stored_bitmap *stored_bitmaps_find(GPtrArray *list, const char *name)
{
    for (unsigned i = 0; i < list->len; i++) {
        struct stored_bitmap *b = g_ptr_array_index(list, i);
        if (!strcmp(b->name, name)) {
            return b;
        }
    }
    return NULL;
}

void stored_bitmap_damage(struct stored_bitmap *b, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    if (!b->damage) {
        b->damage = g_strdup_vprintf(fmt, ap);
    }
    va_end(ap);
}

/* ---- writing ------------------------------------------------------------- */

struct stored_bitmap *stored_bitmap_new(const char *name, uint32_t flags,
                                        unsigned granularity_bits)
{
    struct stored_bitmap *b = g_new0(struct stored_bitmap, 1);
    size_t length = strlen(name);
    struct qcow2_disk_bitmap disk = {
        .flags = htobe32(flags),
        .type = QCOW2_BITMAP_DIRTY_TRACKING,
        .granularity_bits = granularity_bits,
        .name_size = htobe16(length),
    };

    b->name = g_strdup(name);
    b->flags = flags;
    b->granularity_bits = granularity_bits;
    b->entry_bytes = HEAD + length;
    b->entry = g_malloc(b->entry_bytes);
    memcpy(b->entry, &disk, HEAD);
    memcpy(b->entry + HEAD, name, length);
    return b;
}

struct stored_bitmap *stored_bitmap_copy(const struct stored_bitmap *b)
{
    struct stored_bitmap *copy = g_memdup2(b, sizeof(*b));

    copy->entry = g_memdup2(b->entry, b->entry_bytes);
    copy->name = g_strdup(b->name);
    copy->damage = g_strdup(b->damage);
    copy->table = b->table ? g_memdup2(b->table, b->table_entries * 8UL) : NULL;
    return copy;
}

void stored_bitmap_set_table(struct stored_bitmap *b, int64_t offset,
                             uint32_t entries)
{
    uint64_t be_offset = htobe64(offset);
    uint32_t be_entries = htobe32(entries);

    b->table_offset = offset;
    b->table_entries = entries;
    memcpy(b->entry + offsetof(struct qcow2_disk_bitmap, table_offset),
           &be_offset, sizeof(be_offset));
    memcpy(b->entry + offsetof(struct qcow2_disk_bitmap, table_size),
           &be_entries, sizeof(be_entries));
}

void stored_bitmap_set_flags(struct stored_bitmap *b, uint32_t flags)
{
    uint32_t field = htobe32(flags);

    b->flags = flags;
    memcpy(b->entry + offsetof(struct qcow2_disk_bitmap, flags), &field,
           sizeof(field));
}

int64_t stored_bitmaps_bytes(const GPtrArray *list)
{
    int64_t bytes = 0;

    for (unsigned i = 0; i < list->len; i++) {
        const struct stored_bitmap *b = g_ptr_array_index(list, i);
        bytes += align_up(b->entry_bytes, 8);
    }
    return bytes;
}

void stored_bitmaps_build(const GPtrArray *list, uint8_t *directory)
{
    for (unsigned i = 0; i < list->len; i++) {
        const struct stored_bitmap *b = g_ptr_array_index(list, i);
        memcpy(directory, b->entry, b->entry_bytes);
        memset(directory + b->entry_bytes, 0, -b->entry_bytes & 7);
        directory += align_up(b->entry_bytes, 8);
    }
}

/* ---- reading ------------------------------------------------------------- */

/* A name that can be shown and typed; anything else makes the entry unusable,
 * and gets a name that is for people only. */
static void take_name(struct stored_bitmap *b, const char *name, size_t length)
{
    b->name = g_utf8_make_valid(name, length);
    if (!length) {
        stored_bitmap_damage(b, "it has no name");
    } else if (length > DIRTY_BITMAP_NAME_MAX) {
        stored_bitmap_damage(b, "its name has %zu bytes", length);
    } else if (!g_utf8_validate(name, length, NULL)) {
        stored_bitmap_damage(b, "its name is not valid UTF-8");
    }
}

static void check_fields(struct stored_bitmap *b,
                         const struct qcow2_disk_bitmap *d)
{
    uint32_t unknown = b->flags & ~QCOW2_BITMAP_FLAGS;

    if (d->type != QCOW2_BITMAP_DIRTY_TRACKING) {
        stored_bitmap_damage(b, "it is of unknown type %u", d->type);
    } else if (b->granularity_bits < QCOW2_MIN_GRANULARITY_BITS ||
               b->granularity_bits > QCOW2_MAX_GRANULARITY_BITS) {
        stored_bitmap_damage(b, "its granularity of 2^%u is not supported",
                             b->granularity_bits);
    } else if (unknown) {
        stored_bitmap_damage(b, "it has the unknown flags %#" PRIx32, unknown);
    } else if (d->extra_data_size &&
               !(b->flags & QCOW2_BITMAP_EXTRA_COMPATIBLE)) {
        stored_bitmap_damage(b, "it has extra data of an unknown kind");
    }
}

struct stored_bitmap *stored_bitmap_parse(const uint8_t *at, size_t left)
{
    struct qcow2_disk_bitmap d;

    if (left < HEAD) {
        return NULL;
    }
    memcpy(&d, at, HEAD);
    size_t length = be16toh(d.name_size);
    uint64_t bytes = HEAD + (uint64_t)be32toh(d.extra_data_size) + length;
    if (bytes > left || -bytes % 8 > left - bytes) {
        return NULL;
    }
    struct stored_bitmap *b = g_new0(struct stored_bitmap, 1);
    b->entry = g_memdup2(at, bytes);
    b->entry_bytes = bytes;
    b->flags = be32toh(d.flags);
    b->granularity_bits = d.granularity_bits;
    b->table_entries = be32toh(d.table_size);
    uint64_t offset = be64toh(d.table_offset);
    if (offset > (uint64_t)QCOW2_MAX_HOST_OFFSET) {
        stored_bitmap_damage(b, "its table offset %#" PRIx64 " is invalid",
                             offset);
    } else {
        b->table_offset = (int64_t)offset;
    }
    take_name(b, (const char *)at + bytes - length, length);
    check_fields(b, &d);
    return b;
}
