/*
 * What happens when metadata turns out to contradict itself.
 *
 * The image gets the "corrupt" bit, so that nobody writes to it before it is
 * repaired (qcow2 specification, "Header", incompatible features, bit 1), and
 * whoever listens is told. Writes stop; what can still be read is. Later
 * findings say the same, so they stay silent.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <errno.h>
#include <stdarg.h>
#include "block/listener.h"

int co_qcow2_corrupt(struct qcow2 *s, int64_t offset, int64_t bytes,
                     const char *format, ...)
{
    bool fatal = !s->node->read_only;
    va_list args;

    if (s->marked_corrupt) {
        s->broken = s->broken || fatal;
        return -EIO;
    }
    s->marked_corrupt = true;
    s->broken = fatal;
    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    if (fatal) {
        g_warning("qcow2: Marking image as corrupt: %s; further corruption "
                  "events will be suppressed",
                  message);
    } else {
        g_warning("qcow2: Image is corrupt: %s; further non-fatal corruption "
                  "events will be suppressed",
                  message);
    }
    BLOCK_ANNOUNCE(image_corrupted, s->node, message, offset, bytes, fatal);
    /* Version 2 has no bit for it; and if the write fails, the next user finds
     * the same. */
    if (fatal && s->version >= 3 &&
        co_qcow2_update_incompat(s, QCOW2_INCOMPAT_CORRUPT, 0) == 0) {
        (void)co_node_flush(qcow2_file(s));
    }
    return -EIO;
}
