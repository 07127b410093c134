/*
 * Images that do not exist yet: finds the format's driver, and the protocol's,
 * and lets them create the file.
 */
#include "block/node.h"

#include "qapi/options.h"
#include "util/error.h"

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
    if (!driver || driver->kind != DRIVER_PROTOCOL || !driver->co_create_file) {
        return error_set(error,
                         "Protocol driver '%s' does not support image creation",
                         name);
    }
    switch (o->driver) {
    case BLOCKDEV_DRIVER_FILE:
        return driver->co_create_file(o->u.file.filename, params, error);
    case BLOCKDEV_DRIVER_HOST_DEVICE:
        return driver->co_create_file(o->u.host_device.filename, params, error);
    default:
        return driver->co_create_file(filename, params, error);
    }
}
