/*
 * See map_picture.h. 64 cells in a row, and no more than 32 rows.
 */
#include "tools/varve-img/map_picture.h"

#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include "tools/common/tool.h"
#include "util/range.h"

enum {
    COLUMNS = 64,
    ROWS = 32,
    CELL_MIN = 512, /* bytes */
    SIDE = 12,      /* of a cell, in pixels */
    HEAD = 48,      /* above the cells */
};

static const struct {
    char letter;
    const char *colour, *what;
} states[PICTURE_STATES] = {
    [PICTURE_NOTHING] = {'.', "#eeeeee", "nothing"},
    [PICTURE_DATA] = {'#', "#2b6cb0", "data"},
    [PICTURE_ZERO] = {'0', "#9ae6b4", "zeroes"},
    [PICTURE_BACKING] = {'b', "#f6ad55", "backing file"},
};

struct picture {
    int64_t start, length, cell;
    int64_t cells;
    int64_t bytes[COLUMNS * ROWS][PICTURE_STATES];
};

struct picture *picture_new(int64_t start, int64_t length)
{
    struct picture *p = g_new0(struct picture, 1);

    p->start = start;
    p->length = length;
    p->cell = CELL_MIN;
    while (div_round_up(length, p->cell) > COLUMNS * ROWS) {
        p->cell *= 2;
    }
    p->cells = div_round_up(length, p->cell);
    return p;
}

void picture_free(struct picture *p)
{
    g_free(p);
}

void picture_add(struct picture *p, int64_t offset, int64_t bytes,
                 enum picture_state state)
{
    offset -= p->start;
    while (bytes > 0) {
        int64_t cell = offset / p->cell;
        int64_t n = min_i64(bytes, (cell + 1) * p->cell - offset);

        p->bytes[cell][state] += n;
        offset += n;
        bytes -= n;
    }
}

static enum picture_state cell_state(const struct picture *p, int64_t cell)
{
    enum picture_state most = PICTURE_NOTHING;

    for (int s = 0; s < PICTURE_STATES; s++) {
        if (p->bytes[cell][s] > p->bytes[cell][most]) {
            most = s;
        }
    }
    return most;
}

static void print_text(const struct picture *p, const char *title)
{
    g_autofree char *cell = tool_size_text(p->cell);

    printf("%s: one character is %s\n", title, cell);
    for (int64_t i = 0; i < p->cells; i++) {
        if (i % COLUMNS == 0) {
            printf("%s%#-14" PRIx64, i ? "\n" : "", p->start + i * p->cell);
        }
        putchar(states[cell_state(p, i)].letter);
    }
    printf("\n");
    for (int s = 0; s < PICTURE_STATES; s++) {
        printf("%c %s%s", states[s].letter, states[s].what,
               s + 1 < PICTURE_STATES ? ", " : "\n");
    }
}

static void print_svg(const struct picture *p, const char *title)
{
    g_autofree char *cell = tool_size_text(p->cell);
    g_autofree char *name = g_markup_escape_text(title, -1);
    int64_t rows = div_round_up(p->cells, COLUMNS);

    printf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" "
           "height=\"%" PRId64
           "\" font-family=\"sans-serif\" font-size=\"12\">\n"
           "<text x=\"0\" y=\"14\">%s: a cell is %s</text>\n",
           COLUMNS * SIDE, HEAD + rows * SIDE, name, cell);
    for (int s = 0; s < PICTURE_STATES; s++) {
        printf("<rect x=\"%d\" y=\"22\" width=\"12\" height=\"12\" "
               "fill=\"%s\"/><text x=\"%d\" y=\"32\">%s</text>\n",
               s * 140, states[s].colour, s * 140 + 18, states[s].what);
    }
    for (int64_t i = 0, n; i < p->cells; i += n) {
        enum picture_state state = cell_state(p, i);
        int64_t end = min_i64(align_down(i, COLUMNS) + COLUMNS, p->cells);

        for (n = 1; i + n < end && cell_state(p, i + n) == state; n++) {
        }
        printf("<rect x=\"%" PRId64 "\" y=\"%" PRId64 "\" width=\"%" PRId64
               "\" height=\"%d\" fill=\"%s\"/>\n",
               i % COLUMNS * SIDE, HEAD + i / COLUMNS * SIDE, n * SIDE,
               SIDE - 1, states[state].colour);
    }
    printf("</svg>\n");
}

void picture_print(const struct picture *p, const char *title, bool svg)
{
    if (svg) {
        print_svg(p, title);
    } else {
        print_text(p, title);
    }
}
