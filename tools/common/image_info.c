/*
 * The lines of qemu-img info that only a format knows.
 */
#include "tools/common/image_info.h"

#include <glib.h>
#include <inttypes.h>
#include <json-c/json.h>

#include "qapi/codec.h"
#include "tools/common/tool.h"

/* In the order of qemu-img; what is not here comes after it. */
static const char *const first_keys[] = {
    "compat",         "compression-type",
    "lazy-refcounts", "bitmaps",
    "refcount-bits",  "data-file",
    "data-file-raw",  "corrupt",
    "extended-l2",    NULL,
};

static void print_member(FILE *out, const char *key, struct json_object *value,
                         unsigned depth);

static void print_list(FILE *out, struct json_object *list, unsigned depth)
{
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        g_autofree char *key = g_strdup_printf("[%zu]", i);
        print_member(out, key, json_object_array_get_idx(list, i), depth);
    }
}

static void print_object(FILE *out, struct json_object *object, unsigned depth)
{
    /* As qemu-img has it: the flags of a bitmap stand before its name. */
    static const char *const first[] = {"flags", NULL};
    struct json_object *member;

    if (json_object_object_get_ex(object, first[0], &member)) {
        print_member(out, first[0], member, depth);
    }
    json_object_object_foreach(object, key, value)
    {
        if (!g_strv_contains(first, key)) {
            print_member(out, key, value, depth);
        }
    }
}

static void print_member(FILE *out, const char *key, struct json_object *value,
                         unsigned depth)
{
    g_autofree char *label = g_strdelimit(g_strdup(key), "-", ' ');

    fprintf(out, "%*s%s:", (int)depth * 4, "", label);
    if (json_object_is_type(value, json_type_array)) {
        fprintf(out, "\n");
        print_list(out, value, depth + 1);
    } else if (json_object_is_type(value, json_type_object)) {
        fprintf(out, "\n");
        print_object(out, value, depth + 1);
    } else {
        fprintf(out, " %s\n", json_object_get_string(value));
    }
}

void tool_print_specific(FILE *out, const struct image_info_specific *specific)
{
    if (!specific || specific->type != IMAGE_INFO_SPECIFIC_KIND_QCOW2) {
        return;
    }
    struct json_object *tree =
        qapi_encode(&qapi_type_image_info_specific, specific);
    struct json_object *data;

    fprintf(out, "Format specific information:\n");
    if (json_object_object_get_ex(tree, "data", &data)) {
        struct json_object *member;
        for (size_t i = 0; first_keys[i]; i++) {
            if (json_object_object_get_ex(data, first_keys[i], &member)) {
                print_member(out, first_keys[i], member, 1);
            }
        }
        json_object_object_foreach(data, key, value)
        {
            if (!g_strv_contains(first_keys, key)) {
                print_member(out, key, value, 1);
            }
        }
    }
    json_object_put(tree);
}

static void print_snapshot(FILE *out, const struct snapshot_info *sn)
{
    g_autofree char *size = tool_size_text(sn->vm_state_size);
    g_autoptr(GDateTime) date = g_date_time_new_from_unix_local(sn->date_sec);
    g_autofree char *day =
        date ? g_date_time_format(date, "%Y-%m-%d %H:%M:%S") : g_strdup("");
    int64_t clock = sn->vm_clock_sec;
    g_autofree char *up = g_strdup_printf(
        "%02d:%02d:%02d.%03d", (int)(clock / 3600), (int)(clock / 60 % 60),
        (int)(clock % 60), (int)(sn->vm_clock_nsec / 1000000));
    g_autofree char *icount =
        sn->has_icount ? g_strdup_printf("%" PRId64, sn->icount) : g_strdup("");

    fprintf(out, "%-9s %-16s %8s%20s%13s%11s\n", sn->id, sn->name, size, day,
            up, icount);
}

void tool_print_snapshots(FILE *out, const struct snapshot_info_list *list)
{
    if (!list || !list->n) {
        return;
    }
    fprintf(out, "Snapshot list:\n%-9s %-16s %8s%20s%13s%11s\n", "ID", "TAG",
            "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
    for (size_t i = 0; i < list->n; i++) {
        print_snapshot(out, list->items[i]);
    }
}
