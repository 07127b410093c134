/*
 * Writing the header: single fields in place, and the whole area when
 * extensions or the backing name change.
 *
 * The area is written so that a crash leaves the old or the new one, if a disk
 * writes a sector of 512 bytes as a whole. What fits into the first sector is
 * one write. Otherwise a copy of the backing name is written behind all else,
 * then an interim first sector that needs nothing but that copy: the feature
 * names, which nothing depends on, are left out. Then come the other sectors,
 * and then the first one, each stable before the next.
 *
 * Runs on the node's loop, under header_lock.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include "util/error.h"

enum { SECTOR = 512 };

/* ---- extensions ---------------------------------------------------------- */

void header_area_clear(struct header_area *h)
{
    if (h->extensions) {
        g_ptr_array_unref(h->extensions);
    }
    g_free(h->further);
    g_free(h->backing_file);
    *h = (struct header_area){0};
}

static struct header_extension *find(GPtrArray *list, uint32_t type)
{
    for (unsigned i = 0; list && i < list->len; i++) {
        struct header_extension *e = g_ptr_array_index(list, i);
        if (e->type == type) {
            return e;
        }
    }
    return NULL;
}

const struct header_extension *header_area_find(const struct header_area *h,
                                                uint32_t type)
{
    return find(h->extensions, type);
}

const struct header_extension *qcow2_extension(const struct qcow2 *s,
                                               uint32_t type)
{
    return find(s->extensions, type);
}

void header_area_set(struct header_area *h, uint32_t type, const void *data,
                     uint32_t bytes)
{
    unsigned i = 0;

    assert(type != QCOW2_EXT_END);
    if (!h->extensions) {
        h->extensions = g_ptr_array_new_with_free_func(g_free);
    }
    struct header_extension *e = find(h->extensions, type);
    bool there = e && g_ptr_array_find(h->extensions, e, &i);
    if (there) {
        g_ptr_array_remove_index(h->extensions, i);
    }
    if (data) {
        e = g_malloc(sizeof(*e) + bytes);
        e->type = type;
        e->bytes = bytes;
        memcpy(e->data, data, bytes);
        g_ptr_array_insert(h->extensions, there ? (int)i : -1, e);
    }
}

void header_area_set_feature_names(struct header_area *h)
{
    static const struct qcow2_disk_feature names[] = {
        {0, 0, "dirty bit"},
        {0, 1, "corrupt bit"},
        {0, 2, "external data file"},
        {0, 3, "compression type"},
        {0, 4, "extended L2 entries"},
        {1, 0, "lazy refcounts"},
        {2, 0, "bitmaps"},
        {2, 1, "raw external data"},
    };

    header_area_set(h, QCOW2_EXT_FEATURE_NAMES, names, sizeof(names));
}

/* ---- bytes --------------------------------------------------------------- */

static void fields_to_disk(const struct qcow2_disk_header *h,
                           struct qcow2_disk_header *disk)
{
    *disk = *h;
    /* Turning bytes round twice changes nothing. */
    qcow2_header_to_host(disk);
}

static size_t extension_space(const struct header_extension *e)
{
    return sizeof(struct qcow2_disk_extension) + align_up(e->bytes, 8);
}

static size_t put_extension(uint8_t *at, const struct header_extension *e)
{
    struct qcow2_disk_extension ext = {htobe32(e->type), htobe32(e->bytes)};

    memcpy(at, &ext, sizeof(ext));
    memcpy(at + sizeof(ext), e->data, e->bytes);
    return extension_space(e);
}

/* Bytes of the fields in the file. */
static size_t fields_space(struct header_area *h)
{
    if (h->fields.version < 3) {
        return QCOW2_V2_HEADER;
    }
    return QCOW2_FULL_HEADER + h->further_bytes;
}

bool header_area_build(struct header_area *h, size_t name_at, uint8_t *area,
                       size_t size)
{
    const struct header_extension *names =
        header_area_find(h, QCOW2_EXT_FEATURE_NAMES);
    size_t name = h->backing_file ? strlen(h->backing_file) : 0;
    size_t at = fields_space(h),
           need = at + sizeof(struct qcow2_disk_extension);
    struct qcow2_disk_header disk;

    for (unsigned i = 0; h->extensions && i < h->extensions->len; i++) {
        const struct header_extension *e = g_ptr_array_index(h->extensions, i);
        need += e == names ? 0 : extension_space(e);
    }
    size_t end = name_at ? name_at : size - name;
    if (name > size || end > size - name || need > end) {
        return false;
    }
    memset(area, 0, size);
    /* Those that matter come first: in the first sector, if they can. */
    for (unsigned i = 0; h->extensions && i < h->extensions->len; i++) {
        const struct header_extension *e = g_ptr_array_index(h->extensions, i);
        at += e == names ? 0 : put_extension(area + at, e);
    }
    if (names && extension_space(names) <= end - need) {
        at += put_extension(area + at, names);
    }
    at += sizeof(struct qcow2_disk_extension); /* the end: zeroes */
    h->fields.header_length = fields_space(h);
    h->fields.backing_file_offset = !name ? 0 : name_at ? name_at : at;
    h->fields.backing_file_size = name;
    if (name) {
        memcpy(area + h->fields.backing_file_offset, h->backing_file, name);
    }
    fields_to_disk(&h->fields, &disk);
    memcpy(area, &disk, MIN(sizeof(disk), fields_space(h)));
    if (h->fields.version >= 3 && h->further_bytes) {
        memcpy(area + sizeof(disk), h->further, h->further_bytes);
    }
    return true;
}

/* ---- the file ------------------------------------------------------------ */

static int co_write_part(struct qcow2 *s, const uint8_t *area, size_t from,
                         size_t to)
{
    int ret = co_node_pwrite(qcow2_file(s), from, area + from, to - from, 0);

    return ret < 0 ? ret : co_node_flush(qcow2_file(s));
}

static void current_area(struct qcow2 *s, struct header_area *h)
{
    *h = (struct header_area){
        .fields = s->header,
        .further = s->further_bytes
                       ? g_memdup2(s->further_fields, s->further_bytes)
                       : NULL,
        .further_bytes = s->further_bytes,
        .backing_file = g_strdup(s->node->backing_filename),
    };
    for (unsigned i = 0; i < s->extensions->len; i++) {
        const struct header_extension *e = g_ptr_array_index(s->extensions, i);
        if (!h->extensions) {
            h->extensions = g_ptr_array_new_with_free_func(g_free);
        }
        g_ptr_array_add(h->extensions, g_memdup2(e, sizeof(*e) + e->bytes));
    }
}

/* The first sector of a header that is what the file has now, and needs nothing
 * of the other sectors but the backing name, *name bytes at name_at. False:
 * there is none.
 */
static bool build_interim(struct qcow2 *s, size_t name_at, size_t *name,
                          uint8_t *area, size_t size)
{
    struct header_area h;

    current_area(s, &h);
    header_area_set(&h, QCOW2_EXT_FEATURE_NAMES, NULL, 0);
    size_t used = fields_space(&h) + sizeof(struct qcow2_disk_extension);
    for (unsigned i = 0; h.extensions && i < h.extensions->len; i++) {
        used += extension_space(g_ptr_array_index(h.extensions, i));
    }
    bool ok = used <= SECTOR && header_area_build(&h, name_at, area, size);
    /* Not what the file says: without an offset that size can be anything. */
    *name = h.fields.backing_file_size;
    header_area_clear(&h);
    return ok;
}

/* interim has the old backing name from name_at on, behind all else. */
static int co_write_in_steps(struct qcow2 *s, const uint8_t *area,
                             const uint8_t *interim, size_t name_at,
                             size_t name)
{
    int ret = name ? co_write_part(s, interim, name_at, name_at + name) : 0;

    if (ret == 0) {
        ret = co_write_part(s, interim, 0, SECTOR);
    }
    if (ret == 0) {
        ret = co_write_part(s, area, SECTOR, name_at);
    }
    return ret < 0 ? ret : co_write_part(s, area, 0, SECTOR);
}

/* Whole sectors of the area that are of any use. */
static size_t used_bytes(const uint8_t *area, size_t size)
{
    while (size > SECTOR && !area[size - 1]) {
        size--;
    }
    return align_up(size, SECTOR);
}

/* old: room for another area. */
static int co_write_area(struct qcow2 *s, const uint8_t *area, uint8_t *old)
{
    size_t size = s->cluster_size, name;

    int ret = co_node_pread(qcow2_file(s), 0, old, size, 0);
    if (ret < 0) {
        return ret;
    }
    size_t used = MAX(used_bytes(area, size), used_bytes(old, size));
    if (!memcmp(area + SECTOR, old + SECTOR, used - SECTOR)) {
        return co_write_part(s, area, 0, SECTOR);
    }
    return build_interim(s, used, &name, old, size)
               ? co_write_in_steps(s, area, old, used, name)
               : co_write_part(s, area, 0, used);
}

static void adopt(struct qcow2 *s, struct header_area *h)
{
    const struct header_extension *format =
        header_area_find(h, QCOW2_EXT_BACKING_FORMAT);

    s->header = h->fields;
    g_ptr_array_set_size(s->extensions, 0);
    for (unsigned i = 0; h->extensions && i < h->extensions->len; i++) {
        const struct header_extension *e = g_ptr_array_index(h->extensions, i);
        g_ptr_array_add(s->extensions, g_memdup2(e, sizeof(*e) + e->bytes));
    }
    g_free(s->node->backing_filename);
    s->node->backing_filename = g_steal_pointer(&h->backing_file);
    g_free(s->node->backing_format);
    s->node->backing_format =
        format ? g_strndup((const char *)format->data, format->bytes) : NULL;
}

static bool co_edit_locked(struct qcow2 *s, struct header_area *h,
                           GError **error)
{
    size_t size = s->cluster_size;
    uint8_t *area = io_buffer_try_alloc(qcow2_file(s), size);
    uint8_t *old = io_buffer_try_alloc(qcow2_file(s), size);
    int ret = area && old ? 0 : -ENOMEM;

    if (ret == 0 && !header_area_build(h, 0, area, size)) {
        ret = -ENOSPC;
    }
    if (ret == 0) {
        ret = co_write_area(s, area, old);
    }
    io_buffer_free(area);
    io_buffer_free(old);
    return ret == 0 ||
           error_set_errno(error, ret, "Could not update qcow2 header");
}

bool co_qcow2_edit_header(struct qcow2 *s, header_edit_fn *edit, void *opaque,
                          GError **error)
{
    struct header_area h;

    co_mutex_lock(&s->header_lock);
    current_area(s, &h);
    edit(&h, opaque);
    bool ok = co_edit_locked(s, &h, error);
    if (ok) {
        adopt(s, &h);
    }
    co_mutex_unlock(&s->header_lock);
    header_area_clear(&h);
    return ok;
}

int co_qcow2_write_field(struct qcow2 *s, int64_t offset, const void *field,
                         size_t bytes)
{
    struct qcow2_disk_header disk;

    assert(offset >= 0 && offset + bytes <= sizeof(disk));
    co_mutex_lock(&s->header_lock);
    int ret = co_node_pwrite(qcow2_file(s), offset, field, bytes, 0);
    if (ret == 0) {
        fields_to_disk(&s->header, &disk);
        memcpy((uint8_t *)&disk + offset, field, bytes);
        qcow2_header_to_host(&disk);
        s->header = disk;
    }
    co_mutex_unlock(&s->header_lock);
    return ret;
}

int co_qcow2_update_incompat(struct qcow2 *s, uint64_t set, uint64_t clear)
{
    uint64_t field = htobe64((s->header.incompatible | set) & ~clear);

    if (s->version < 3) {
        return -ENOTSUP;
    }
    return co_qcow2_write_field(
        s, offsetof(struct qcow2_disk_header, incompatible), &field,
        sizeof(field));
}
