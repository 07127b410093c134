/*
 * Names of nodes for people, and for images that name them as backing file.
 *
 * A plain file name where that opens the same content, else "json:{...}" of the
 * options that decide the content: what is about caching, locking or names of
 * nodes is left out, and a child appears as what it is, also where the options
 * refer to it by node-name.
 */
#include <string.h>

#include "block/graph.h"
#include "block/node_int.h"
#include "qapi/options.h"

static struct edge *find_child(const struct node *node, const char *name)
{
    struct edge *e;
    LIST_FOREACH (e, &node->children, in_children) {
        if (!strcmp(e->name, name)) {
            return e;
        }
    }
    return NULL;
}

/* Behind it is what the image itself names, whether an option says so or not.
 */
static bool has_own_backing(const struct node *node)
{
    const char *own = node->backing_filename ? node->backing_filename : "";
    return node->backing ? !strcmp(node->backing->child->filename, own)
                         : !*own || node->no_backing;
}

static bool is_strong(const struct node *node, const struct qapi_member *m)
{
    const char *const *strong = node->driver->strong_options;
    if (m->type == &qapi_type_blockdev_ref_or_null && has_own_backing(node)) {
        return false;
    }
    return !strong || g_strv_contains(strong, m->name);
}

static bool is_ref(const struct qapi_type *type)
{
    return type == &qapi_type_blockdev_ref ||
           type == &qapi_type_blockdev_ref_or_null;
}

static bool is_given(const void *branch, const struct qapi_member *m)
{
    const char *at = branch;
    if (m->has_flag) {
        return *(const bool *)(at + m->has_offset);
    }
    return m->optional && *(void *const *)(at + m->offset);
}

static void *branch_of(const struct node *node, const struct qapi_type **type)
{
    const struct qapi_type *whole = &qapi_type_blockdev_options;
    *type = whole->branches[node->options->driver];
    return (char *)node->options + whole->u_offset;
}

/* Something beside the primary child decides the content. */
static bool has_strong_options(const struct node *node)
{
    const struct qapi_type *type;
    const void *branch = branch_of(node, &type);
    for (uint32_t i = 0; type && i < type->n; i++) {
        const struct qapi_member *m = &type->members[i];
        if (is_given(branch, m) && is_strong(node, m)) {
            return true;
        }
    }
    return false;
}

static struct blockdev_options *strong_options(struct node *node);

/* What ref names, as its own definition. Both kinds of reference look alike. */
static void inline_child(struct node *node, const char *name,
                         struct blockdev_ref *ref)
{
    struct edge *e = find_child(node, name);
    struct blockdev_options *child = e ? strong_options(e->child) : NULL;
    if (child) {
        qapi_clear(&qapi_type_blockdev_ref, ref);
        ref->kind = QAPI_KIND_OBJECT;
        ref->u.definition = *child;
        g_free(child);
    }
}

/* The same for a list of references: they are as the children are now, whose
 * names are "<name>.<number>". */
static void inline_children(struct node *node, const char *name,
                            struct blockdev_ref_list *list)
{
    g_autofree char *prefix = g_strdup_printf("%s.", name);
    struct edge *e;

    qapi_clear(&qapi_type_blockdev_ref_list, list);
    LIST_FOREACH (e, &node->children, in_children) {
        struct blockdev_options *o =
            g_str_has_prefix(e->name, prefix) ? strong_options(e->child) : NULL;
        if (o) {
            struct blockdev_ref *ref = g_new0(struct blockdev_ref, 1);
            ref->kind = QAPI_KIND_OBJECT;
            ref->u.definition = *o;
            g_free(o);
            qapi_list_append(list, ref);
        }
    }
}

static void weaken(struct node *node, struct blockdev_options *o)
{
    const struct qapi_type *type;
    branch_of(node, &type);
    char *branch = (char *)o + qapi_type_blockdev_options.u_offset;
    for (uint32_t i = 0; type && i < type->n; i++) {
        const struct qapi_member *m = &type->members[i];
        if (!is_strong(node, m)) {
            if (m->has_flag) {
                *(bool *)(branch + m->has_offset) = false;
            } else if (m->optional) {
                qapi_free(m->type, *(void **)(branch + m->offset));
                *(void **)(branch + m->offset) = NULL;
            }
        } else if (is_ref(m->type) && *(void **)(branch + m->offset)) {
            inline_child(node, m->name,
                         *(struct blockdev_ref **)(branch + m->offset));
        } else if (m->type == &qapi_type_blockdev_ref_list) {
            inline_children(node, m->name, (void *)(branch + m->offset));
        }
    }
}

/* NULL for a node that was made without options. */
static struct blockdev_options *strong_options(struct node *node)
{
    if (!node->options) {
        return node->file ? strong_options(node->file->child) : NULL;
    }
    struct blockdev_options *o = blockdev_options_clone(node->options);
    g_clear_pointer(&o->node_name, g_free);
    blockdev_cache_options_free(o->cache);
    o->cache = NULL;
    o->has_discard = o->has_read_only = o->has_auto_read_only = false;
    o->has_force_share = o->has_detect_zeroes = false;
    weaken(node, o);
    return o;
}

char *node_json_filename(struct node *node)
{
    qapi_auto(blockdev_options) o = strong_options(node);
    return o ? qapi_blockdev_options_to_filename(o) : g_strdup("");
}

void node_refresh_json_filename(struct node *node)
{
    g_free(node->filename);
    node->filename = node->options ? node_json_filename(node)
                                   : g_strdup(node->file->child->filename);
}

static bool shows_child_name(const struct node *node)
{
    if (!node->options || node_is_filter(node)) {
        return true;
    }
    /* A plain name is opened with a format on top; a json: name is not. */
    return !has_strong_options(node) &&
           !g_str_has_prefix(node->file->child->filename, "json:");
}

void node_refresh_filename(struct node *node)
{
    struct edge *e;
    char *name = NULL;
    LIST_FOREACH (e, &node->children, in_children) {
        node_refresh_filename(e->child);
    }
    if (node->driver->refresh_filename) {
        node->driver->refresh_filename(node);
        return;
    }
    if (node->file && shows_child_name(node)) {
        name = g_strdup(node->file->child->filename);
    } else if (node->options && (node->file || !*node->filename)) {
        name = node_json_filename(node);
    }
    if (name) {
        g_free(node->filename);
        node->filename = name;
    }
}
