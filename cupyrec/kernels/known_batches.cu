// Batches that the planner knows: their rows are taken in, planned, held and released. See planner.cuh.

#include "planner.cuh"

// Take in the unique rows of a batch beyond those known, and link each from its latest use before.
//
// rows: (unique,) int64, each another; start: where the batch begins in the window; batch: its number; planned: batches
// planned so far; since: of the first row that is listed here, rows after it count on from there. row_counts: (R,) int32;
// counted: 0 where it is not meant and counts are kept while running. Modified: all that is not const. One thread a row.
extern "C" __global__ void look(
    const int64* __restrict__ rows, int unique, int batch, int planned, int64 start, uint64 since, int64* cells,
    int shift, int* nodes, int64* __restrict__ node_rows, const int* __restrict__ free_nodes, int* lists, int ring,
    int* window, int window_size, int* __restrict__ slot_list, uint64* __restrict__ slot_since,
    const int* __restrict__ row_counts, int counted, int* state) {
    const int64 stride = (int64)gridDim.x * blockDim.x;
    const int handed_out = state[HANDED_OUT];
    for (int64 first = (int64)blockIdx.x * blockDim.x; first < unique; first += stride) {
        const int64 i = first + threadIdx.x;
        const bool is_row = i < unique;
        const int64 row = is_row ? rows[i] : 0;
        const int64 found = is_row ? hit_map_find(cells, shift, row) : 0;
        const bool is_new = found < 0;
        // The last of the free nodes; after the first of them, fresh ones.
        const int left = warp_reserve(&state[FREE], is_new, -1);
        int node = 0;
        bool one_more = false;
        if (is_new) {
            node = left > 0 ? free_nodes[left - 1] : handed_out - left;
            one_more = hit_map_insert(cells, shift, row, node);
            node_rows[node] = row;
        } else if (is_row) {
            node = (int)cells[2 * found + 1];
        }
        warp_reserve(&state[PLACES], one_more, 1);

        int from = NONE;
        if (is_row) {
            int* const fields = nodes + (int64)node * NODE_FIELDS;
            const int at = (int)((start + i) & (window_size - 1));
            if (is_new) {
                fields[SLOT] = NONE;
                fields[NEXT_USE] = batch;
                fields[LAST_USE] = NONE;
                fields[COUNT] = counted ? row_counts[row] : 0;
                fields[LIST] = NONE;
            } else if (fields[SEEN] >= planned) {
                window[2 * (int64)fields[SEEN_AT] + 1] = batch;
            } else {
                fields[NEXT_USE] = batch;
                from = fields[LIST];
                if (from != NONE) {
                    const int to = list_of_batch(batch, ring), slot = fields[SLOT];
                    fields[LIST] = to;
                    slot_list[slot] = to;
                    slot_since[slot] = since + i;
                }
            }
            fields[SEEN] = batch;
            fields[SEEN_AT] = at;
            window[2 * (int64)at] = node;
            window[2 * (int64)at + 1] = NEVER;
        }
        count_lanes(lists, from, -1);
        count_lanes(lists, from == NONE ? NONE : list_of_batch(batch, ring), 1);
    }
}

// Mark the rows of a batch as used by it. counting: 1 where counts are kept while running.
//
// unique_slots: (unique,) int32, overwritten: the slot of each, NONE where it misses. tile_misses: (tiles,) int32,
// overwritten: how many of each tile miss. nodes, slot_list: modified; how many are in the list of this batch is left to
// find_room: none. Grid: tiles of scan.cuh.
extern "C" __global__ void __launch_bounds__(TILE_THREADS) use(
    int batch, int64 start, int unique, int* nodes, const int* __restrict__ window, int window_size,
    int* __restrict__ slot_list, int counting, int* unique_slots, int* __restrict__ tile_misses) {
    __shared__ int shared[WARP];
#pragma unroll
    for (int round = 0; round < TILE_ROUNDS; ++round) {
        const unsigned item = tile_item(round);
        if (item >= (unsigned)unique) continue;
        const int64 at = (start + item) & (window_size - 1);
        int* const fields = nodes + (int64)window[2 * at] * NODE_FIELDS;
        const int slot = fields[SLOT];
        if (fields[LIST] != NONE) {
            slot_list[slot] = NONE;
            fields[LIST] = NONE;
        }
        fields[NEXT_USE] = window[2 * at + 1];
        fields[LAST_USE] = batch;
        if (counting) ++fields[COUNT];
        unique_slots[item] = slot;
    }
    const int missed = kept_in_tile(unique, [=](int item) { return unique_slots[item] == NONE; }, shared);
    if (threadIdx.x == 0) tile_misses[blockIdx.x] = missed;
}

// A batch is held no longer: its rows that no later one has used may leave. since: of its first row, others count on
// from there. nodes, lists, slot_list, slot_since: modified. One thread a row.
extern "C" __global__ void release(
    int batch, int64 start, int unique, uint64 since, int* nodes, const int64* __restrict__ node_rows, int* lists,
    int ring, const int* __restrict__ window, int window_size, int* __restrict__ slot_list,
    uint64* __restrict__ slot_since, int kind, uint64 seed) {
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 first = (int64)blockIdx.x * blockDim.x; first < unique; first += stride) {
        const int64 i = first + threadIdx.x;
        int to = NONE;
        if (i < unique) {
            const int node = window[2 * ((start + i) & (window_size - 1))];
            int* const fields = nodes + (int64)node * NODE_FIELDS;
            const int slot = fields[SLOT];
            if (fields[LAST_USE] == batch && slot != NONE && fields[LIST] == NONE) {
                const int next_use = fields[NEXT_USE];
                to = next_use == NEVER ? rank_of(kind, node_rows[node], fields[COUNT], batch, seed)
                                       : list_of_batch(next_use, ring);
                fields[LIST] = to;
                slot_list[slot] = to;
                slot_since[slot] = since + i;
            }
        }
        count_lanes(lists, to, 1);
    }
}

// Move what is listed from `first` to `end` into a larger window, and tell each node its latest place there.
// window: (window_size, 2) int32; larger: (larger_size, 2) int32, modified; nodes: modified. One thread a place.
extern "C" __global__ void move_window(
    const int* __restrict__ window, int window_size, int64 first, int64 end, int* __restrict__ larger, int larger_size,
    int* nodes) {
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 at = first + (int64)blockIdx.x * blockDim.x + threadIdx.x; at < end; at += stride) {
        const int64 from = at & (window_size - 1), to = at & (larger_size - 1);
        const int node = window[2 * from];
        larger[2 * to] = node;
        larger[2 * to + 1] = window[2 * from + 1];
        // No other thread sees its own place here, whether or not this one has moved it: the new place is the old one or
        // lies beyond all old ones.
        int* const seen_at = &nodes[(int64)node * NODE_FIELDS + SEEN_AT];
        if (*seen_at == (int)from) *seen_at = (int)to;
    }
}
