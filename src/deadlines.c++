// SPDX-License-Identifier: Apache-2.0
#include "hybrid/deadlines.hpp"

namespace hybrid {

void Deadlines::add(Timed &item, Duration length, Time now, Length kind)
{
    item.length = length;
    item.expires = later(now, length);
    item.seen = false;
    ++size_;
    if (kind == Length::Odd) {
        item.previous = item.next = &item;
        odd_.emplace(item.expires, &item);
        return;
    }
    Queue &queue = queues_[length];
    item.previous = queue.head.previous;
    item.next = &queue.head;
    item.previous->next = &item;
    queue.head.previous = &item;
}

void Deadlines::remove(Timed &item)
{
    if (item.previous == &item)
        odd_.erase({item.expires, &item});
    item.previous->next = item.next;
    item.next->previous = item.previous;
    item.previous = item.next = nullptr;
    item.expires = kNever;
    --size_;
}

Timed *Deadlines::pop_expired(Time now)
{
    if (!odd_.empty() && odd_.begin()->first <= now) {
        Timed *item = odd_.begin()->second;
        remove(*item);
        return item;
    }
    for (auto &[length, queue] : queues_) {
        if (queue.empty() || queue.head.next->expires > now)
            continue;
        Timed *item = queue.head.next;
        remove(*item);
        return item;
    }
    return nullptr;
}

void Deadlines::collect(std::vector<Timed *> &items) const
{
    for (const auto &[length, queue] : queues_)
        for (Timed *item = queue.head.next; item != &queue.head; item = item->next)
            items.push_back(item);
    for (const auto &[expires, item] : odd_)
        items.push_back(item);
}

void Deadlines::collect_unseen(std::vector<Timed *> &items) const
{
    for (const auto &[length, queue] : queues_) {
        Timed *item = queue.head.previous;
        while (item != &queue.head && !item->seen)
            item = item->previous;
        for (item = item->next; item != &queue.head; item = item->next)
            items.push_back(item);
    }
    for (const auto &[expires, item] : odd_)
        if (!item->seen)
            items.push_back(item);
}

Time Deadlines::next() const
{
    Time first = odd_.empty() ? kNever : odd_.begin()->first;
    for (const auto &[length, queue] : queues_)
        if (!queue.empty() && queue.head.next->expires < first)
            first = queue.head.next->expires;
    return first;
}

} // namespace hybrid
