/*
 * Guest data in a file of their own (qcow2 specification, "Header",
 * incompatible features, bit 2: external data file).
 *
 * A guest cluster is at its own offset there, so nothing is allocated and
 * nothing is counted; the L2 tables still say what is data, and what is zero or
 * the backing file's. With autoclear bit 1 (raw external data) the file can be
 * read as it is: whatever the guest sees is there, zeroes too, so these and
 * discards are passed on before the L2 tables learn of them.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <inttypes.h>
#include "qapi/options.h"
#include "util/error.h"

/* ---- open ---------------------------------------------------------------- */

/* What an image says of its data file is the name of a file, or any other name
 * of a protocol; it is not relative to the image. */
static struct blockdev_ref *named_file(const struct header_extension *name,
                                       GError **error)
{
    g_autofree char *filename =
        g_strndup((const char *)name->data, name->bytes);
    qapi_auto(blockdev_options) options =
        qapi_blockdev_from_filename(filename, error);

    if (!options) {
        return NULL;
    }
    struct blockdev_ref *ref = g_new0(struct blockdev_ref, 1);
    ref->kind = QAPI_KIND_OBJECT;
    ref->u.definition = *options;
    g_free(g_steal_pointer(&options));
    return ref;
}

bool co_qcow2_open_data_file(struct qcow2 *s, const struct blockdev_ref *ref,
                             GError **error)
{
    const struct header_extension *name =
        qcow2_extension(s, QCOW2_EXT_DATA_FILE);
    qapi_auto(blockdev_ref) named = NULL;

    s->data = s->node->file;
    if (!(s->header.incompatible & QCOW2_INCOMPAT_DATA_FILE)) {
        return !ref || error_set(error, "'data-file' can only be set for "
                                        "images with an external data file");
    }
    if (s->node->no_data) {
        s->external = true;
        s->external_raw = s->header.autoclear & QCOW2_AUTOCLEAR_RAW_DATA;
        return true;
    }
    if (!ref) {
        if (!name || !name->bytes) {
            return error_set(error, "'data-file' is required for this image");
        }
        named = named_file(name, error);
        if (!named) {
            return false;
        }
        ref = named;
    }
    s->data = co_node_open_child(s->node, ref, "data-file", ROLE_DATA, error);
    s->external = true;
    s->external_raw = s->header.autoclear & QCOW2_AUTOCLEAR_RAW_DATA;
    return s->data;
}

/* ---- damage -------------------------------------------------------------- */

int co_qcow2_check_external(struct qcow2 *s, int64_t offset,
                            const struct mapping *m)
{
    if (m->type == CLUSTER_COMPRESSED) {
        return co_qcow2_corrupt(
            s, -1, -1,
            "Compressed cluster entry found in image with "
            "external data file (L2 offset: %#" PRIx64 ", L2 index: %#x)",
            qcow2_l2_table(s, offset), qcow2_l2_index(s, offset));
    }
    int64_t cluster = align_down(offset, s->cluster_size);
    if (m->placed && m->host != cluster) {
        return co_qcow2_corrupt(s, -1, -1,
                                "External data file host cluster offset "
                                "%#" PRIx64 " does not match guest cluster "
                                "offset: %#" PRIx64 ", L2 index: %#x)",
                                m->host, cluster, qcow2_l2_index(s, offset));
    }
    return 0;
}

/* ---- zeroes and discards ------------------------------------------------- */

int co_qcow2_external_zeroes(struct qcow2 *s, int64_t offset, int64_t bytes,
                             unsigned flags)
{
    if (!s->external_raw) {
        return 0;
    }
    /* The last cluster may go on behind the end of the disk. */
    bytes = min_i64(bytes, s->node->length - offset);
    return bytes > 0 ? co_node_pwrite_zeroes(qcow2_data(s), offset, bytes,
                                             flags & REQ_MAY_UNMAP)
                     : 0;
}

void co_qcow2_external_discard(struct qcow2 *s, int64_t offset, int64_t bytes,
                               enum free_kind kind)
{
    bytes = min_i64(bytes, s->node->length - offset);
    if (!s->external_raw && s->discard_passed[kind] && bytes > 0) {
        /* A hint; if it fails, the space stays taken. */
        (void)co_node_pdiscard(qcow2_data(s), offset, bytes);
    }
}
