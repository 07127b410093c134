/*
 * What a backend does about failed requests: the policies werror and rerror,
 * io_status, and who is told.
 *
 * The device asks for the action, carries it out as far as the request goes
 * (fail it, forget the error, or keep the request for later), and reports it
 * here. On the graph's loop only; nothing suspends.
 */
#include <assert.h>
#include <errno.h>

#include "block/backend.h"
#include "block/listener.h"

/* on-error as configured, with AUTO resolved: enospc for writes, report for
 * reads. */
static enum blockdev_on_error policy(const struct backend *b, bool is_read)
{
    enum blockdev_on_error p = is_read ? b->on_read_error : b->on_write_error;
    if (p == BLOCKDEV_ON_ERROR_AUTO) {
        return is_read ? BLOCKDEV_ON_ERROR_REPORT : BLOCKDEV_ON_ERROR_ENOSPC;
    }
    return p;
}

enum block_error_action backend_error_action(const struct backend *b,
                                             bool is_read, int errnum)
{
    static const struct {
        enum block_error_action no_space, other;
    } table[BLOCKDEV_ON_ERROR__COUNT] = {
        [BLOCKDEV_ON_ERROR_REPORT] = {BLOCK_ERROR_ACTION_REPORT,
                                      BLOCK_ERROR_ACTION_REPORT},
        [BLOCKDEV_ON_ERROR_IGNORE] = {BLOCK_ERROR_ACTION_IGNORE,
                                      BLOCK_ERROR_ACTION_IGNORE},
        [BLOCKDEV_ON_ERROR_ENOSPC] = {BLOCK_ERROR_ACTION_STOP,
                                      BLOCK_ERROR_ACTION_REPORT},
        [BLOCKDEV_ON_ERROR_STOP] = {BLOCK_ERROR_ACTION_STOP,
                                    BLOCK_ERROR_ACTION_STOP},
    };
    enum blockdev_on_error p = policy(b, is_read);
    return errnum == ENOSPC ? table[p].no_space : table[p].other;
}

/* The first error stays visible until it is reset. */
static void set_io_status(struct backend *b, int errnum)
{
    if (b->io_status_enabled && b->io_status == BLOCK_DEVICE_IO_STATUS_OK) {
        b->io_status = errnum == ENOSPC ? BLOCK_DEVICE_IO_STATUS_NOSPACE
                                        : BLOCK_DEVICE_IO_STATUS_FAILED;
    }
}

void backend_report_error(struct backend *b, enum block_error_action action,
                          bool is_read, int errnum)
{
    assert(errnum > 0);
    if (action != BLOCK_ERROR_ACTION_STOP) {
        BLOCK_ANNOUNCE(io_error, b, is_read, action, errnum);
        return;
    }
    /* In this order a query that an event provokes sees what it was about, and
     * the event comes before the one that says that the guest stopped. */
    set_io_status(b, errnum);
    BLOCK_ANNOUNCE(io_error, b, is_read, action, errnum);
    BLOCK_ANNOUNCE(stop_request, b);
}

void backend_reset_io_status(struct backend *b)
{
    b->io_status = BLOCK_DEVICE_IO_STATUS_OK;
}
