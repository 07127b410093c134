/*
 * Images that do not exist yet: finds the format's driver, and the protocol's,
 * and lets them create the file.
 */
#include "block/create.h"

#include <string.h>

#include "block/node.h"
#include "block/request.h"
#include "qapi/options.h"
#include "util/error.h"
#include "util/keyval.h"
#include "util/range.h"

bool co_image_create(const char *filename, const char *format,
                     const struct create_params *params, GError **error)
{
    const struct block_driver *driver = block_driver_find(format);
    if (!driver) {
        return error_set(error, "Unknown file format '%s'", format);
    }
    if (!driver->co_create_file) {
        return error_set(error,
                         "Format driver '%s' does not support image creation",
                         format);
    }
    return driver->co_create_file(filename, params, error);
}

bool co_image_measure(const char *format, const struct create_params *params,
                      struct node *source, struct image_measure *measure,
                      GError **error)
{
    const struct block_driver *driver = block_driver_find(format);
    if (!driver) {
        return error_set(error, "Unknown file format '%s'", format);
    }
    if (!driver->co_measure) {
        return error_set(error,
                         "Block driver '%s' does not support size measurement",
                         format);
    }
    return driver->co_measure(params, source, measure, error);
}

/* ---- protocols whose files are there already ---- */

static bool check_extra(const char *extra, GError **error)
{
    g_autoptr(GPtrArray) pairs = keyval_split(extra, NULL, error);

    for (guint i = 0; pairs && i < pairs->len; i++) {
        const struct keyval *kv = pairs->pdata[i];

        if (strcmp(kv->key, "preallocation") != 0) {
            return error_set(error, "Invalid parameter '%s'", kv->key);
        }
        if (strcmp(kv->value, "off") != 0) {
            return error_set(error, "Unsupported preallocation mode '%s'",
                             kv->value);
        }
    }
    return pairs != NULL;
}

/* Zeroes the start, where probing would find what was there before. */
static bool co_look_empty(struct node *node, GError **error)
{
    int64_t bytes = min_i64(node->length, BLOCK_SECTOR_SIZE);
    int ret = co_node_pwrite_zeroes(node, 0, bytes, 0);

    return ret == 0 ||
           error_set_errno(error, ret, "Could not clear '%s'", node->filename);
}

/* What cannot be made, but is large enough, is used as it is. */
static bool co_reuse(const struct blockdev_options *o,
                     const struct create_params *params, GError **error)
{
    if (params->extra && !check_extra(params->extra, error)) {
        return false;
    }
    struct node *node = co_node_open(o, error);

    if (!node) {
        g_prefix_error(error,
                       "Protocol driver '%s' does not support image creation, "
                       "and opening the image failed: ",
                       blockdev_driver_str(o->driver));
        return false;
    }
    bool ok = co_node_truncate(node, params->size, false, PREALLOC_MODE_OFF, 0,
                               error) &&
              co_look_empty(node, error);

    co_node_unref(node);
    return ok;
}

/* What a protocol's driver calls the file. */
static const char *name_of(const struct blockdev_options *o,
                           const char *filename)
{
    switch (o->driver) {
    case BLOCKDEV_DRIVER_FILE:
        return o->u.file.filename;
    case BLOCKDEV_DRIVER_HOST_DEVICE:
        return o->u.host_device.filename;
    default:
        return filename;
    }
}

bool co_image_create_file(const char *filename,
                          const struct create_params *params, GError **error)
{
    qapi_auto(blockdev_options) o =
        qapi_blockdev_from_filename(filename, error);
    if (!o) {
        return false;
    }
    const char *name = blockdev_driver_str(o->driver);
    const struct block_driver *driver = block_driver_find(name);
    if (driver && driver->co_truncate && !driver->co_create_file) {
        return co_reuse(o, params, error);
    }
    if (!driver || driver->kind != DRIVER_PROTOCOL || !driver->co_create_file) {
        return error_set(error,
                         "Protocol driver '%s' does not support image creation",
                         name);
    }
    return driver->co_create_file(name_of(o, filename), params, error);
}

void co_image_delete_file(const char *filename)
{
    qapi_auto(blockdev_options) o = qapi_blockdev_from_filename(filename, NULL);
    const struct block_driver *driver =
        o ? block_driver_find(blockdev_driver_str(o->driver)) : NULL;

    if (driver && driver->co_delete_file) {
        driver->co_delete_file(name_of(o, filename));
    }
}
