/*
 * The command line: one table for reading it and for --help.
 *
 * Options may be spelt with one dash or two, and have their argument in the
 * next word or after '='. The whole line is read before anything is opened.
 * What describes a machine that is not there is accepted and does nothing, so
 * that scripts which start an emulator for its block layer need no change.
 */
#include <stdio.h>
#include <string.h>

#include "tools/common/options.h"
#include "tools/common/tool.h"
#include "tools/varved/daemon.h"
#include "util/error.h"

/* ---- small handlers ---- */

static enum option_result apply_help(struct daemon *d, const char *value,
                                     GError **error);

static enum option_result apply_version(struct daemon *d, const char *value,
                                        GError **error)
{
    printf("%s version 0.1\n", g_get_prgname());
    return OPTION_ANSWERED;
}

static enum option_result apply_stopped(struct daemon *d, const char *value,
                                        GError **error)
{
    d->start_stopped = true;
    return OPTION_OK;
}

static enum option_result apply_daemonize(struct daemon *d, const char *value,
                                          GError **error)
{
    d->daemonize = true;
    return OPTION_OK;
}

static enum option_result apply_pidfile(struct daemon *d, const char *value,
                                        GError **error)
{
    d->pidfile = value;
    return OPTION_OK;
}

static enum option_result apply_nothing(struct daemon *d, const char *value,
                                        GError **error)
{
    return OPTION_OK;
}

static enum option_result apply_machine(struct daemon *d, const char *value,
                                        GError **error)
{
    if (!strcmp(value, "help") || !strcmp(value, "?")) {
        printf("Supported machines are:\n"
               "none                 no machine; what is said about one is "
               "accepted\n");
        return OPTION_ANSWERED;
    }
    return OPTION_OK;
}

static enum option_result apply_object(struct daemon *d, const char *value,
                                       GError **error)
{
    if (!strcmp(value, "help")) {
        tool_list_objects(true);
        return OPTION_ANSWERED;
    }
    return tool_add_object(value, true, error) ? OPTION_OK : OPTION_FAILED;
}

static enum option_result apply_unsupported(struct daemon *d, const char *value,
                                            GError **error)
{
    return error_set(error, "this option is not supported");
}

/* ---- the table ---- */

#define O STAGE_ORDERED
#define F STAGE_FIRST

static const struct option_row rows[] = {
    {"blockdev", "OPTIONS", "open a node: driver=qcow2,node-name=n,... or JSON",
     O, apply_blockdev},
    {"drive", "OPTIONS",
     "a drive: file=,format=,id=,if=none|virtio,\n"
     "werror=,rerror=,cache=,aio=,discard=,... and\n"
     "options of the node (format=help lists formats)",
     O, apply_drive},
    {"device", "OPTIONS",
     "a device: virtio-blk-pci,drive=ID,... (help;\nvirtio-blk,help)",
     STAGE_DEVICES, apply_device},
    {"object", "OPTIONS",
     "an object: iothread,id=ID; secret,id=ID,...; or\n"
     "throttle-group,id=ID,limits.iops-total=N,...\n"
     "(help)",
     O, apply_object},
    {"chardev", "OPTIONS",
     "a channel: socket,id=ID,path=P|host=H,port=P\n"
     "[,server=on][,wait=off]; stdio,id=ID",
     O, apply_chardev},
    {"monitor", "OPTIONS", "a QMP monitor: [chardev=]ID[,pretty=on]", O,
     apply_monitor},
    {"mon", "OPTIONS", "the same, for a channel that may come later",
     STAGE_MONITORS, apply_mon},
    {"qmp", "CHANNEL",
     "a QMP monitor on unix:PATH, tcp:HOST:PORT (both\n"
     "with [,server=on][,wait=off]), stdio or chardev:ID",
     O, apply_qmp},
    {"qmp-pretty", "CHANNEL", "the same, with indented answers", O,
     apply_qmp_pretty},
    {"S", NULL, "do not let the guest run until the command cont", F,
     apply_stopped},
    {"daemonize", NULL, "go into the background when all is set up", F,
     apply_daemonize},
    {"pidfile", "FILE", "write the process's number to FILE", F, apply_pidfile},
    {"nbd-server", "OPTIONS", NULL, O, apply_unsupported},
    {"export", "OPTIONS",
     "serve a node: vhost-user-blk,id=ID,node-name=NODE,\naddr.type=unix,"
     "addr.path=PATH[,writable=on]\n[,num-queues=N][,logical-block-size=N]",
     O, apply_export},
    {"trace", "OPTIONS", NULL, O, apply_unsupported},
    {"T", "OPTIONS", NULL, O, apply_unsupported},
    {"help", NULL, "show this", F, apply_help},
    {"h", NULL, NULL, F, apply_help},
    {"version", NULL, "show the version", F, apply_version},
    {"V", NULL, NULL, F, apply_version},

    /* A machine, which there is not. */
    {"machine", "NAME", NULL, F, apply_machine},
    {"M", "NAME", NULL, F, apply_machine},
    {"accel", "NAME", NULL, F, apply_nothing},
    {"audio", "X", NULL, F, apply_nothing},
    {"audiodev", "X", NULL, F, apply_nothing},
    {"bios", "FILE", NULL, F, apply_nothing},
    {"boot", "X", NULL, F, apply_nothing},
    {"cpu", "NAME", NULL, F, apply_nothing},
    {"display", "X", NULL, F, apply_nothing},
    {"enable-kvm", NULL, NULL, F, apply_nothing},
    {"full-screen", NULL, NULL, F, apply_nothing},
    {"fw_cfg", "X", NULL, F, apply_nothing},
    {"global", "X", NULL, F, apply_nothing},
    {"icount", "X", NULL, F, apply_nothing},
    {"k", "X", NULL, F, apply_nothing},
    {"L", "PATH", NULL, F, apply_nothing},
    {"m", "SIZE", NULL, F, apply_nothing},
    {"mem-path", "PATH", NULL, F, apply_nothing},
    {"mem-prealloc", NULL, NULL, F, apply_nothing},
    {"msg", "X", NULL, F, apply_nothing},
    {"name", "NAME", NULL, F, apply_nothing},
    {"net", "X", NULL, F, apply_nothing},
    {"netdev", "X", NULL, F, apply_nothing},
    {"nic", "X", NULL, F, apply_nothing},
    {"no-acpi", NULL, NULL, F, apply_nothing},
    {"no-fd-bootchk", NULL, NULL, F, apply_nothing},
    {"no-hpet", NULL, NULL, F, apply_nothing},
    {"no-reboot", NULL, NULL, F, apply_nothing},
    {"no-shutdown", NULL, NULL, F, apply_nothing},
    {"no-user-config", NULL, NULL, F, apply_nothing},
    {"nodefaults", NULL, NULL, F, apply_nothing},
    {"nographic", NULL, NULL, F, apply_nothing},
    {"numa", "X", NULL, F, apply_nothing},
    {"overcommit", "X", NULL, F, apply_nothing},
    {"parallel", "X", NULL, F, apply_nothing},
    {"rtc", "X", NULL, F, apply_nothing},
    {"sandbox", "X", NULL, F, apply_nothing},
    {"serial", "X", NULL, F, apply_nothing},
    {"smbios", "X", NULL, F, apply_nothing},
    {"smp", "X", NULL, F, apply_nothing},
    {"spice", "X", NULL, F, apply_nothing},
    {"usb", NULL, NULL, F, apply_nothing},
    {"usbdevice", "X", NULL, F, apply_nothing},
    {"uuid", "X", NULL, F, apply_nothing},
    {"vga", "X", NULL, F, apply_nothing},
    {"vnc", "X", NULL, F, apply_nothing},
};

#undef O
#undef F

/* ---- --help ---- */

static void print_row(const struct option_row *row)
{
    g_autofree char *left = g_strdup_printf(
        "  %s%s%s%s", row->name[1] ? "--" : "-", row->name,
        row->argument ? " " : "", row->argument ? row->argument : "");
    g_auto(GStrv) lines = g_strsplit(row->help, "\n", -1);

    for (int i = 0; lines[i]; i++) {
        printf("%-23s %s\n", i ? "" : left, lines[i]);
    }
}

static enum option_result apply_help(struct daemon *d, const char *value,
                                     GError **error)
{
    const char *program = g_get_prgname();

    printf("usage: %s [OPTION]...\n\n"
           "Serves disk images: a graph of block nodes, emulated disks, jobs "
           "and QMP\nmonitors.\n\n",
           program);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        if (rows[i].help) {
            print_row(&rows[i]);
        }
    }
    printf("\nOptions may have one dash or two. Those that describe a machine "
           "(-machine, -m,\n-smp, -display, -netdev ...) are accepted and do "
           "nothing.\n\n"
           "examples:\n"
           "  %s --blockdev file,filename=disk.qcow2,node-name=file0 \\\n"
           "      --blockdev qcow2,file=file0,node-name=disk0 \\\n"
           "      --chardev socket,id=c,path=/run/qmp.sock,server=on,wait=off "
           "\\\n"
           "      --monitor chardev=c\n"
           "  %s -drive file=disk.qcow2,format=qcow2,id=drive0,if=virtio \\\n"
           "      -qmp unix:/run/qmp.sock,server=on,wait=off\n\n"
           "exit status: 0 after quit or a signal to end, 1 if it could not "
           "start.\n",
           program, program);
    return OPTION_ANSWERED;
}

/* ---- reading ---- */

static void given_free(gpointer p)
{
    struct given_option *o = p;
    g_free(o->text);
    g_free(o);
}

/* name of `length` bytes */
static const struct option_row *find_row(const char *name, size_t length)
{
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        if (strlen(rows[i].name) == length &&
            !strncmp(rows[i].name, name, length)) {
            return &rows[i];
        }
    }
    return NULL;
}

/* The spelling decides whose words an error has: those of the emulator for one
 * dash, those of the storage daemon for two. */
static bool wrong_option(const char *word)
{
    if (g_str_has_prefix(word, "--")) {
        tool_error("unrecognized option '%s'", word);
    } else {
        tool_error("%s: invalid option", word);
    }
    return false;
}

static bool missing_argument(const char *word)
{
    if (g_str_has_prefix(word, "--")) {
        tool_error("option '%s' requires an argument", word);
    } else {
        tool_error("%s: requires an argument", word);
    }
    return false;
}

/* The option at argv[*i]; moves *i on over an argument. */
static bool read_option(int argc, char **argv, int *i, struct given_option *o)
{
    const char *word = argv[*i];
    const char *name = word + 1 + (word[1] == '-');
    size_t length = strcspn(name, "=");

    if (word[0] != '-' || !*name) {
        tool_error("%s: Unexpected argument", word);
        return false;
    }
    o->row = find_row(name, length);
    if (!o->row) {
        return wrong_option(word);
    }
    if (!o->row->argument) {
        if (name[length]) {
            tool_error("option '%.*s' doesn't allow an argument",
                       (int)(name + length - word), word);
            return false;
        }
        o->text = g_strdup(word);
        return true;
    }
    if (name[length]) {
        o->value = name + length + 1;
        o->text = g_strdup(word);
        return true;
    }
    if (*i + 1 >= argc) {
        return missing_argument(word);
    }
    o->value = argv[++*i];
    o->text = g_strdup_printf("%s %s", word, o->value);
    return true;
}

static enum option_result apply_one(struct daemon *d,
                                    const struct given_option *o)
{
    g_autoptr(GError) error = NULL;
    enum option_result result = o->row->apply(d, o->value, &error);

    if (result == OPTION_FAILED) {
        tool_error("%s: %s", d->blame ? d->blame : o->text, error->message);
    }
    return result;
}

enum option_result options_parse(struct daemon *d, int argc, char **argv,
                                 GPtrArray **given)
{
    *given = g_ptr_array_new_with_free_func(given_free);
    for (int i = 1; i < argc; i++) {
        struct given_option *o = g_new0(struct given_option, 1);
        g_ptr_array_add(*given, o);
        if (!read_option(argc, argv, &i, o)) {
            return OPTION_FAILED;
        }
        enum option_result result =
            o->row->stage == STAGE_FIRST ? apply_one(d, o) : OPTION_OK;
        if (result != OPTION_OK) {
            return result;
        }
    }
    return OPTION_OK;
}

enum option_result options_apply(struct daemon *d, const GPtrArray *given)
{
    for (int stage = STAGE_ORDERED; stage < STAGE_COUNT; stage++) {
        for (guint i = 0; i < given->len; i++) {
            const struct given_option *o = given->pdata[i];
            if ((int)o->row->stage != stage) {
                continue;
            }
            enum option_result result = apply_one(d, o);
            if (result != OPTION_OK) {
                return result;
            }
        }
    }
    return OPTION_OK;
}
