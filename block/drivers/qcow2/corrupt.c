/*
 * What happens when metadata turns out to contradict itself.
 *
 * The image gets the "corrupt" bit, so that nobody writes to it before it is
 * repaired (qcow2 specification, "Header", incompatible features, bit 1), and
 * whoever listens is told. Writes stop; what can still be read is. Later
 * findings say the same, so they stay silent. Damage that further writes do not
 * make worse, and all damage of an image that is only read, is told and no
 * more.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <errno.h>
#include <stdarg.h>
#include "block/listener.h"

/* How often a guest comes by the same place must not matter. */
static void tell(struct qcow2 *s, int64_t offset, int64_t bytes, bool fatal,
                 const char *message)
{
    s->damage_told = true;
    g_message("qcow2: %s: %s; further %scorruption events will be suppressed",
              fatal ? "Marking image as corrupt" : "Image is corrupt", message,
              fatal ? "" : "non-fatal ");
    BLOCK_ANNOUNCE(image_corrupted, s->node, message, offset, bytes, fatal);
}

int co_qcow2_corrupt(struct qcow2 *s, int64_t offset, int64_t bytes,
                     const char *format, ...)
{
    bool fatal = !s->node->read_only;
    bool marked =
        s->broken || (s->header.incompatible & QCOW2_INCOMPAT_CORRUPT);
    va_list args;

    s->broken = s->broken || fatal;
    if (s->damage_told && (!fatal || marked)) {
        return -EIO;
    }
    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    s->node->unusable = fatal;
    tell(s, offset, bytes, fatal, message);
    /* Version 2 has no bit for it; and if the write fails, the next user finds
     * the same. */
    if (fatal && s->version >= 3 &&
        co_qcow2_update_incompat(s, QCOW2_INCOMPAT_CORRUPT, 0) == 0) {
        (void)co_node_flush(qcow2_file(s));
    }
    return -EIO;
}

void qcow2_note_damage(struct qcow2 *s, const char *format, ...)
{
    va_list args;

    if (!s->damage_told) {
        va_start(args, format);
        g_autofree char *message = g_strdup_vprintf(format, args);
        va_end(args);
        tell(s, -1, -1, false, message);
    }
}
