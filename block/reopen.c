/*
 * Other options for nodes that are open (blockdev-reopen).
 *
 * Each node that changes is an entry: those that were asked for, and below them
 * the children that were opened along with them and follow their settings. All
 * of them are drained. Then the drivers prepare, parents first, which is where
 * a format writes out what it could not write any more as a read-only node. The
 * new settings and children are put in place, the permissions checked as a
 * whole, and the drivers commit, children first; or all is undone. A node that
 * has become writable may do its first writes last, when nothing else can fail:
 * if those fail, it stays read-only, and the command says so.
 *
 * Runs on the graph's loop, with change_lock held.
 */
#include <string.h>

#include "block/graph.h"
#include "block/node_int.h"
#include "block/open_int.h"
#include "block/request.h"
#include "qapi/options.h"
#include "util/error.h"

struct entry {
    struct node *node;                      /* a reference */
    const struct blockdev_options *options; /* NULL: as they are */
    struct node_settings before, settings;
    bool prepared;
};

/* A child edge that is to change. */
struct edge_step {
    struct node *parent;
    const char *name;    /* of a new edge */
    struct edge *edge;   /* the old one, or NULL */
    struct node *target; /* a reference, or NULL: there is to be none */
};

struct reopen {
    GPtrArray *entries; /* struct entry, parents before children */
    GArray *steps;      /* struct edge_step */
};

/* ---- which options may change -------------------------------------------- */

struct judge {
    const struct node *node;
    const struct blockdev_options *to;
    bool named; /* by the name that it has anyway */
    GError **error;
};

/* The option itself, or what it is a member of. */
static bool contains(const char *const *list, const char *name)
{
    g_autofree char *head = g_strndup(name, strcspn(name, "."));

    return list && g_strv_contains(list, head);
}

/* The same child as before: its node, or in other words, which its own entry
 * judges. */
static bool keeps_child(const struct judge *j, const char *name)
{
    g_autofree char *head = g_strndup(name, strcspn(name, "."));
    struct qapi_child c = qapi_blockdev_options_child(j->to, head);
    const struct edge *e;

    LIST_FOREACH (e, &j->node->children, in_children) {
        if (!strcmp(e->name, head)) {
            return c.kind == QAPI_CHILD_DEFINITION ||
                   (c.kind == QAPI_CHILD_REFERENCE &&
                    !strcmp(c.reference, e->child->name));
        }
    }
    return false;
}

static bool judge_change(const char *name, bool reset, void *opaque)
{
    static const char *const common[] = {
        "read-only", "auto-read-only", "discard", "detect-zeroes",
        "cache",     "file",           "backing", NULL,
    };
    const struct judge *j = opaque;

    if (contains(common, name) ||
        contains(j->node->driver->reopen->mutable_options, name) ||
        (j->named && !strcmp(name, "node-name")) || keeps_child(j, name)) {
        return true;
    }
    if (!reset) {
        return error_set(j->error, "Cannot change the option '%s'", name);
    }
    /* A child's description may leave its name out. */
    return !strcmp(name, "node-name") ||
           error_set(j->error,
                     "Option '%s' cannot be reset to its default value", name);
}

static bool check_options(struct node *node, const struct blockdev_options *to,
                          GError **error)
{
    bool named = to->node_name && !strcmp(to->node_name, node->name);
    struct judge j = {node, to, named, error};

    return qapi_blockdev_options_compare(node->options, to, judge_change, &j);
}

/* ---- which nodes change, and how ----------------------------------------- */

static struct entry *find(const struct reopen *r, const struct node *node)
{
    for (guint i = 0; i < r->entries->len; i++) {
        struct entry *e = g_ptr_array_index(r->entries, i);
        if (e->node == node) {
            return e;
        }
    }
    return NULL;
}

static void entry_free(gpointer data)
{
    g_free(data);
}

/* It was opened for this parent alone, and is nobody else's. */
static bool follows(const struct node *child, const struct node *parent)
{
    const struct edge *e;

    LIST_FOREACH (e, &child->parents, in_parents) {
        if (e->parent != parent) {
            return false;
        }
    }
    return !child->monitor_owned && child->options;
}

static bool add_entry(struct reopen *r, struct node *node,
                      const struct blockdev_options *options,
                      const struct open_defaults *d, GError **error);

static struct open_defaults defaults_for(const struct entry *parent,
                                         const struct edge *edge)
{
    return node_child_defaults(node_is_filter(parent->node), parent->settings,
                               edge->roles);
}

static bool plan_step(struct reopen *r, struct node *parent, const char *name,
                      struct edge *edge, struct node *target)
{
    struct edge_step step = {parent, name, edge,
                             target ? node_ref(target) : NULL};

    g_array_append_val(r->steps, step);
    return true;
}

static bool plan_reference(struct reopen *r, struct entry *e, const char *name,
                           struct edge *edge, const char *reference,
                           GError **error)
{
    struct node *target = node_lookup(NULL, reference, error);

    if (!target) {
        return false;
    }
    if (!edge || edge->child != target) {
        return plan_step(r, e->node, name, edge, target);
    }
    struct open_defaults d = defaults_for(e, edge);
    return !follows(target, e->node) || add_entry(r, target, NULL, &d, error);
}

/* What the options of an entry say of one child. */
static bool plan_child(struct reopen *r, struct entry *e, const char *name,
                       struct edge *edge, GError **error)
{
    struct qapi_child c = {.kind = QAPI_CHILD_ABSENT};
    struct open_defaults d = {0};

    if (e->options) {
        c = qapi_blockdev_options_child(e->options, name);
    }
    if (edge) {
        d = defaults_for(e, edge);
    }
    switch (c.kind) {
    case QAPI_CHILD_REFERENCE:
        return plan_reference(r, e, name, edge, c.reference, error);
    case QAPI_CHILD_NULL:
        return !edge || plan_step(r, e->node, name, edge, NULL);
    case QAPI_CHILD_DEFINITION:
        if (!edge || !follows(edge->child, e->node)) {
            return error_set(error, "Cannot change the option '%s.driver'",
                             name);
        }
        return add_entry(r, edge->child, c.definition, &d, error);
    default:
        return !edge || !follows(edge->child, e->node) ||
               add_entry(r, edge->child, NULL, &d, error);
    }
}

static bool settings_equal(const struct node_settings *a,
                           const struct node_settings *b)
{
    return a->read_only == b->read_only &&
           a->auto_read_only == b->auto_read_only &&
           a->force_share == b->force_share && a->discard == b->discard &&
           a->cache_direct == b->cache_direct && a->no_flush == b->no_flush &&
           a->detect_zeroes == b->detect_zeroes;
}

static bool plan_children(struct reopen *r, struct entry *e, GError **error)
{
    struct node *node = e->node;

    if (e->options && node->backing &&
        qapi_blockdev_options_child(e->options, "backing").kind ==
            QAPI_CHILD_ABSENT) {
        return error_set(error, "backing is missing for '%s'", node->name);
    }
    struct edge *edge;
    LIST_FOREACH (edge, &node->children, in_children) {
        if (edge != node->backing &&
            !plan_child(r, e, edge->name, edge, error)) {
            return false;
        }
    }
    return !node->driver->supports_backing ||
           plan_child(r, e, "backing", node->backing, error);
}

bool node_check_reopens(const struct node *node, GError **error)
{
    return node->driver->reopen ||
           error_set(error,
                     "Block format '%s' used by node '%s' does not support "
                     "reopening files",
                     node->driver->name, node->name);
}

static bool fill_entry(struct reopen *r, struct entry *e,
                       const struct blockdev_options *options,
                       const struct open_defaults *d, GError **error)
{
    struct node *node = e->node;

    e->options = options;
    e->before = node_settings_of(node);
    if (options && options->has_force_share &&
        options->force_share != node->force_share) {
        return error_set(error, "Cannot change the option 'force-share'");
    }
    if (!node_settings_compute(options ? options : node->options, d,
                               &e->settings, error)) {
        return false;
    }
    return node_check_reopens(node, error) && plan_children(r, e, error) &&
           (!options || check_options(node, options, error));
}

static bool add_entry(struct reopen *r, struct node *node,
                      const struct blockdev_options *options,
                      const struct open_defaults *d, GError **error)
{
    struct node_settings now = node_settings_of(node), then;

    if (find(r, node)) {
        return true;
    }
    if (!options) {
        if (!node_settings_compute(node->options, d, &then, error)) {
            return false;
        }
        if (settings_equal(&now, &then)) {
            return true;
        }
    }
    struct entry *e = g_new0(struct entry, 1);
    e->node = node_ref(node);
    g_ptr_array_add(r->entries, e);
    return fill_entry(r, e, options, d, error);
}

/* All that are named first: what their own options say counts. */
static bool plan(struct reopen *r,
                 const struct blockdev_options *const *options, size_t n,
                 GError **error)
{
    static const struct open_defaults none;

    for (size_t i = 0; i < n; i++) {
        if (!options[i]->node_name) {
            return error_set(error, "node-name not specified");
        }
        struct node *node = node_find(options[i]->node_name, error);
        if (!node) {
            return false;
        }
        struct entry *e = find(r, node);
        if (!e) {
            e = g_new0(struct entry, 1);
            e->node = node_ref(node);
            g_ptr_array_add(r->entries, e);
        }
        e->options = options[i];
    }
    guint named = r->entries->len;
    for (guint i = 0; i < named; i++) {
        struct entry *e = g_ptr_array_index(r->entries, i);
        if (!fill_entry(r, e, e->options, &none, error)) {
            return false;
        }
    }
    return true;
}

/* ---- doing it ------------------------------------------------------------ */

static struct node *file_to_be(const struct reopen *r, const struct node *node)
{
    for (guint i = 0; i < r->steps->len; i++) {
        const struct edge_step *s =
            &g_array_index(r->steps, struct edge_step, i);
        if (s->edge && s->edge == node->file) {
            return s->target;
        }
    }
    return node->file ? node->file->child : NULL;
}

static bool co_prepare(struct reopen *r, GError **error)
{
    for (guint i = 0; i < r->entries->len; i++) {
        struct entry *e = g_ptr_array_index(r->entries, i);
        struct node_reopen to = {
            .options = e->options ? e->options : e->node->options,
            .settings = &e->settings,
            .file = file_to_be(r, e->node),
        };
        const struct reopen_ops *ops = e->node->driver->reopen;
        if (ops->co_prepare && !ops->co_prepare(e->node, &to, error)) {
            return false;
        }
        e->prepared = true;
    }
    return true;
}

static void co_abort(struct reopen *r)
{
    for (guint i = r->entries->len; i > 0; i--) {
        struct entry *e = g_ptr_array_index(r->entries, i - 1);
        if (e->prepared && e->node->driver->reopen->co_abort) {
            e->node->driver->reopen->co_abort(e->node);
        }
    }
}

static bool take_step(struct graph_tx *tx, const struct edge_step *s,
                      GError **error)
{
    if (!s->target) {
        return graph_tx_detach(tx, s->edge, error);
    }
    return s->edge ? graph_tx_replace_child(tx, s->edge, s->target, error)
                   : graph_tx_attach(tx, s->parent, s->target, s->name,
                                     ROLE_COW, error) != NULL;
}

static void set_all(struct reopen *r, bool forward)
{
    for (guint i = 0; i < r->entries->len; i++) {
        struct entry *e = g_ptr_array_index(r->entries, i);
        node_settings_apply(e->node, forward ? &e->settings : &e->before);
        e->node->turning_read_only =
            forward && e->settings.read_only && !e->before.read_only;
    }
}

static void forget_turning(struct reopen *r)
{
    for (guint i = 0; i < r->entries->len; i++) {
        struct entry *e = g_ptr_array_index(r->entries, i);
        e->node->turning_read_only = false;
    }
}

/* The new settings and children, if the permissions allow them. */
static bool co_apply(struct reopen *r, GError **error)
{
    struct graph_tx *tx = graph_tx_begin();
    bool ok = true;

    set_all(r, true);
    for (guint i = 0; ok && i < r->steps->len; i++) {
        ok =
            take_step(tx, &g_array_index(r->steps, struct edge_step, i), error);
    }
    if (!ok) {
        co_graph_tx_abort(tx);
    } else {
        for (guint i = 0; i < r->entries->len; i++) {
            struct entry *e = g_ptr_array_index(r->entries, i);
            graph_tx_refresh_perm(tx, e->node);
        }
        ok = co_graph_tx_commit(tx, error);
    }
    if (!ok) {
        set_all(r, false);
    }
    forget_turning(r);
    return ok;
}

static void co_commit(struct entry *e)
{
    struct node *node = e->node;

    if (node->driver->reopen->co_commit) {
        node->driver->reopen->co_commit(node, e->options ? e->options
                                                         : node->options);
    }
    if (e->options) {
        struct blockdev_options *options = blockdev_options_clone(e->options);
        if (!options->node_name) {
            options->node_name = g_strdup(node->options->node_name);
        }
        blockdev_options_free(node->options);
        node->options = options;
    }
    if (node->driver->co_getlength) {
        (void)co_node_refresh_length(node);
    }
    node_refresh_filename(node);
}

/* It could not do its first writes: nobody may write to it. */
static void co_stay_read_only(struct entry *e)
{
    struct graph_tx *tx = graph_tx_begin();
    g_autoptr(GError) error = NULL;

    e->node->read_only = true;
    graph_tx_refresh_perm(tx, e->node);
    if (!co_graph_tx_commit(tx, &error)) {
        g_warning("Node '%s': %s", e->node->name, error->message);
    }
}

static bool co_finish(struct reopen *r, GError **error)
{
    bool ok = true;

    for (guint i = r->entries->len; i > 0; i--) {
        co_commit(g_ptr_array_index(r->entries, i - 1));
    }
    for (guint i = r->entries->len; i > 0; i--) {
        struct entry *e = g_ptr_array_index(r->entries, i - 1);
        const struct reopen_ops *ops = e->node->driver->reopen;
        if (e->before.read_only && !e->node->read_only && ops->co_writable &&
            !ops->co_writable(e->node, ok ? error : NULL)) {
            co_stay_read_only(e);
            ok = false;
        }
    }
    return ok;
}

static bool co_do(struct reopen *r, GError **error)
{
    guint n = r->entries->len;
    bool ok;

    for (guint i = 0; i < n; i++) {
        co_drain_begin(
            ((struct entry *)g_ptr_array_index(r->entries, i))->node);
    }
    ok = co_prepare(r, error) && co_apply(r, error);
    if (ok) {
        ok = co_finish(r, error);
    } else {
        co_abort(r);
    }
    for (guint i = n; i > 0; i--) {
        co_drain_end(
            ((struct entry *)g_ptr_array_index(r->entries, i - 1))->node);
    }
    return ok;
}

bool co_nodes_reopen(const struct blockdev_options *const *options, size_t n,
                     GError **error)
{
    struct reopen r = {
        .entries = g_ptr_array_new_with_free_func(entry_free),
        .steps = g_array_new(false, false, sizeof(struct edge_step)),
    };
    bool ok = plan(&r, options, n, error) && co_do(&r, error);

    for (guint i = 0; i < r.steps->len; i++) {
        struct edge_step *s = &g_array_index(r.steps, struct edge_step, i);
        if (s->target) {
            co_node_unref(s->target);
        }
    }
    for (guint i = 0; i < r.entries->len; i++) {
        co_node_unref(((struct entry *)g_ptr_array_index(r.entries, i))->node);
    }
    g_array_unref(r.steps);
    g_ptr_array_unref(r.entries);
    return ok;
}
