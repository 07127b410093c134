/*
 * The lines of qemu-img info about snapshots.
 */
#include "tools/common/image_info.h"

#include <glib.h>
#include <inttypes.h>

#include "tools/common/tool.h"

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
