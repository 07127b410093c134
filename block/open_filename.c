/*
 * Opening by file name: a name says which protocol, and the format on top of it
 * is given or probed.
 *
 * Probing opens the protocol node, asks every driver about the first bytes, and
 * puts the winner on top of the very node that was read: what was probed is
 * what is used.
 */
#include "block/node.h"

#include <assert.h>
#include <string.h>

#include "block/graph.h"
#include "block/node_int.h"
#include "block/open_int.h"
#include "block/request.h"
#include "qapi/options.h"
#include "util/error.h"
#include "util/range.h"

#define PROBE_BYTES 2048

static bool is_format(const struct blockdev_options *o)
{
    const struct block_driver *d =
        block_driver_find(blockdev_driver_str(o->driver));
    return d && d->kind == DRIVER_FORMAT;
}

/* The member "file" of the driver's branch, or NULL if it has none. */
static struct blockdev_ref **file_member(struct blockdev_options *o)
{
    const struct qapi_type *type = &qapi_type_blockdev_options;
    const struct qapi_type *branch = type->branches[o->driver];
    for (uint32_t i = 0; branch && i < branch->n; i++) {
        const struct qapi_member *m = &branch->members[i];
        if (m->type == &qapi_type_blockdev_ref && !strcmp(m->name, "file")) {
            return (struct blockdev_ref **)((char *)o + type->u_offset +
                                            m->offset);
        }
    }
    return NULL;
}

bool block_driver_has_file(const char *name)
{
    struct blockdev_options o = {0};

    for (o.driver = 0; o.driver < BLOCKDEV_DRIVER__COUNT; o.driver++) {
        if (!strcmp(blockdev_driver_str(o.driver), name)) {
            return file_member(&o);
        }
    }
    return false;
}

/* Options of driver `format` on top of file; takes over what file holds. */
static struct blockdev_options *put_on_top(enum blockdev_driver format,
                                           struct blockdev_options *file,
                                           GError **error)
{
    struct blockdev_options *top = g_new0(struct blockdev_options, 1);
    top->driver = format;
    struct blockdev_ref **member = file_member(top);
    if (!member) {
        error_set(error, "Driver '%s' cannot be used as a format",
                  blockdev_driver_str(format));
        blockdev_options_free(top);
        blockdev_options_free(file);
        return NULL;
    }
    *member = g_new0(struct blockdev_ref, 1);
    (*member)->kind = QAPI_KIND_OBJECT;
    (*member)->u.definition = *file;
    g_free(file);
    return top;
}

/* ---- probing ---- */

const struct block_driver *block_probe(const uint8_t *head, size_t bytes,
                                       const char *filename)
{
    const struct block_driver *best = block_driver_find("raw");
    int best_score = 1;
    for (size_t i = 0; block_drivers[i]; i++) {
        const struct block_driver *d = block_drivers[i];
        int score = d->probe ? d->probe(head, bytes, filename) : 0;
        if (score > best_score) {
            best = d;
            best_score = score;
        }
    }
    return best;
}

static bool co_probe(struct node *file, enum blockdev_driver *format,
                     GError **error)
{
    uint8_t head[PROBE_BYTES] = {0};
    int64_t bytes = min_i64(file->length, sizeof(head));
    int ret = bytes > 0 ? co_node_pread(file, 0, head, bytes, 0) : 0;
    if (ret < 0) {
        return error_set_errno(error, ret,
                               "Could not read image for determining its "
                               "format");
    }
    const struct block_driver *driver =
        block_probe(head, bytes > 0 ? bytes : 0, file->filename);
    bool known = driver && blockdev_driver_parse(driver->name, format);
    return known || error_set(error, "Could not determine image format");
}

bool co_node_probe(const struct blockdev_options *protocol,
                   enum blockdev_driver *format, GError **error)
{
    const struct open_defaults d = {.read_only = true, .force_share = true};
    qapi_auto(blockdev_options) options = blockdev_options_clone(protocol);

    /* Only a look: the name stays free for the node that will be used. */
    g_clear_pointer(&options->node_name, g_free);
    options->has_read_only = options->has_auto_read_only = false;
    options->has_force_share = false;
    struct node *file = co_open_node(options, &d, NULL, NULL, error);
    if (!file) {
        return false;
    }
    bool ok = co_probe(file, format, error);
    co_node_unref(file);
    return ok;
}

static struct node *co_open_probed(struct blockdev_options *protocol,
                                   const struct open_defaults *defaults,
                                   struct node *opened_for, GError **error)
{
    enum blockdev_driver format;
    struct open_defaults below = *defaults, above = *defaults;
    below.discard_unmap = true;
    struct node *file = co_open_node(protocol, &below, opened_for, NULL, error);
    if (!file || !co_probe(file, &format, error)) {
        blockdev_options_free(protocol);
        if (file) {
            co_node_unref(file);
        }
        return NULL;
    }
    qapi_auto(blockdev_options) top = put_on_top(format, protocol, error);
    above.probed = format == BLOCKDEV_DRIVER_RAW;
    struct node *node =
        top ? co_open_node(top, &above, opened_for, file, error) : NULL;
    co_node_unref(file);
    return node;
}

/* ---- the entry ---- */

static struct node *co_open_as(struct blockdev_options *named,
                               const char *format,
                               const struct open_defaults *defaults,
                               struct node *opened_for, GError **error)
{
    qapi_auto(blockdev_options) options = named;
    enum blockdev_driver driver;
    const struct block_driver *d = block_driver_find(format);
    if (!d || !blockdev_driver_parse(format, &driver)) {
        error_set(error, "Unknown driver '%s'", format);
        return NULL;
    }
    if (driver != options->driver) {
        if (d->kind == DRIVER_PROTOCOL || is_format(options)) {
            error_set(error, "Driver '%s' cannot be used for a %s image",
                      format, blockdev_driver_str(options->driver));
            return NULL;
        }
        options = put_on_top(driver, g_steal_pointer(&options), error);
    }
    return options ? co_open_node(options, defaults, opened_for, NULL, error)
                   : NULL;
}

struct node *co_open_filename(const char *filename, const char *format,
                              const struct open_defaults *defaults,
                              struct node *opened_for, GError **error)
{
    struct blockdev_options *options =
        qapi_blockdev_from_filename(filename, error);
    if (!options) {
        return NULL;
    }
    if (format && *format) {
        return co_open_as(options, format, defaults, opened_for, error);
    }
    if (g_str_has_prefix(filename, "json:")) {
        /* It says its driver: nothing to guess. */
        struct node *node =
            co_open_node(options, defaults, opened_for, NULL, error);
        blockdev_options_free(options);
        return node;
    }
    return co_open_probed(options, defaults, opened_for, error);
}

struct node *co_node_open_filename(const char *filename, const char *format,
                                   const struct open_defaults *defaults,
                                   GError **error)
{
    static const struct open_defaults none;
    return co_open_filename(filename, format, defaults ? defaults : &none, NULL,
                            error);
}
