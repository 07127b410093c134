/*
 * Images that do not exist yet: finds the format's driver and lets it create
 * the file.
 */
#include "block/node.h"

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
