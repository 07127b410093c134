/*
 * The drivers of the program: one line each, sorted by name.
 */
#include "block/driver.h"

#include <string.h>

extern const struct block_driver driver_blkdebug, driver_blklogwrites,
    driver_blkverify, driver_compress, driver_copy_before_write,
    driver_copy_on_read, driver_file, driver_host_device, driver_null_aio,
    driver_null_co, driver_preallocate, driver_qcow2, driver_quorum, driver_raw,
    driver_snapshot_access, driver_throttle;
extern const struct block_driver driver_nbd, driver_virtio_blk_vhost_user;

/* One a line, so that a new driver is a line. */
/* clang-format off */
const struct block_driver *const block_drivers[] = {
    &driver_blkdebug,
    &driver_blklogwrites,
    &driver_blkverify,
    &driver_compress,
    &driver_copy_before_write,
    &driver_copy_on_read,
    &driver_file,
    &driver_host_device,
    &driver_nbd,
    &driver_null_aio,
    &driver_null_co,
    &driver_preallocate,
    &driver_qcow2,
    &driver_quorum,
    &driver_raw,
    &driver_snapshot_access,
    &driver_throttle,
    &driver_virtio_blk_vhost_user,
    NULL,
};
/* clang-format on */

const struct block_driver *block_driver_find(const char *name)
{
    for (size_t i = 0; block_drivers[i]; i++) {
        if (!strcmp(block_drivers[i]->name, name)) {
            return block_drivers[i];
        }
    }
    return NULL;
}
